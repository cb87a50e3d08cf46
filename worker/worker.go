// Package worker is what a training program imports: it joins the job that the environment names, or trains alone
// when there is none, and keeps training while workers come and go.
//
//	func main() { worker.Main(&trainer{}) }
package worker

import (
	"context"

	"github.com/farandole-ml/farandole/elastic"
)

// Trainer is what a training program implements; the runtime calls it, from one goroutine, for the shards that
// this worker owns.
type Trainer interface {
	// Setup allocates, and describes the job to s once: s.Plan, s.Param, s.State. The state that it leaves is that of step 0
	// and depends on the seed alone.
	Setup(ctx context.Context, s *Session) error
	// Gradients adds the shard's gradient into the registered gradients and returns the shard's loss (a sum or a
	// mean: the printed loss is the sum over shards divided by the number of shards).
	Gradients(ctx context.Context, shard elastic.Shard) (loss float64, err error)
	// Apply does one optimizer update from the reduced gradients: the sum over all shards.
	Apply(ctx context.Context, step elastic.Step) error
}

// Finisher is implemented by a Trainer that has something to do once all steps are done, on rank 0
// (evaluate, print a sample).
type Finisher interface {
	Finish(ctx context.Context, s *Session) error
}

// UsageError is a bad input that the user can mend: the job ends with exit code 2 and this one sentence.
type UsageError struct{ Reason string }

func (e *UsageError) Error() string { return e.Reason }

// Plan is what the program fixes for the job's life. All workers must agree on it.
type Plan struct {
	Steps          int64  // optimizer updates to do
	Shards         int    // S: logical shards of a global batch; the largest world size
	Seed           uint64 // of everything random
	SamplesPerStep int64
	TokensPerStep  int64  // zero when the samples are no tokens
	DatasetLen     int64  // samples in an epoch; zero when there is no data set
	Program        string // names model and data; a checkpoint of another program is refused
	Class          string // numerics class of the program's arithmetic (kernels.Device.Class); zero means "f32"
}

// Session is a program's place in the job.
type Session struct{}

// Plan describes the job. Called once, in Setup.
func (s *Session) Plan(p Plan) { panic("TODO") }

// Param registers a parameter and its gradient, of equal length. Called in Setup, in an order that is equal on all workers.
// The runtime reads and writes both from now on, between the Trainer's calls.
func (s *Session) Param(name string, shape []int, value, grad []float32) { panic("TODO") }

// State registers further state (optimizer moments): saved, and sent to joiners.
func (s *Session) State(name string, value []float32) { panic("TODO") }

// Threads is how many threads this worker should compute with.
func (s *Session) Threads() int { panic("TODO") }

// Rank is the current rank, World the current world size. Both are valid within one generation: nothing that a
// program computes may depend on them.
func (s *Session) Rank() int { panic("TODO") }

// World is the current world size.
func (s *Session) World() int { panic("TODO") }

// Main runs t and exits the process. Outside a job (no FARANDOLE_COORDINATOR in the environment) it
// trains alone, with the same arithmetic.
func Main(t Trainer) { panic("TODO") }
