// Package worker is what a training program imports: it joins the job that the environment names, or trains alone
// when there is none, and keeps training while workers come and go.
//
//	func main() { worker.Main(&trainer{}) }
//
// A program with its own loop drives a Session instead:
//
//	s, err := worker.Join(ctx, cfg)
//	s.Plan(plan)
//	s.Param("w", []int{n}, w, grad)
//	for s.Next(ctx) {
//		for _, shard := range s.Shards() {
//			s.Add(shard, addGradient(shard)) // closes the shard; grad is zero again for the next
//		}
//		if err := s.AllReduce(ctx); err != nil {
//			continue // Next knows what to do
//		}
//		update() // grad holds the sum over all shards
//		s.Commit(ctx)
//	}
//	err = s.Err()
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
	// When ctx ends, with cause collective.ErrGenerationChanged, the result will be dropped: return early.
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
	Overlap        bool   // Gradients calls Session.Ready: large models are reduced in parts, while backward still runs
	Class          string // numerics class of the program's arithmetic (kernels.Device.Class); zero means "f32"
}
