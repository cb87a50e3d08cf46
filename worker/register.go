package worker

import (
	"fmt"
	"log/slog"

	"github.com/farandole-ml/farandole/checkpoint"
)

// Plan describes the job. Called once, in Setup.
func (s *Session) Plan(p Plan) {
	if s.planned {
		panic("worker: Plan called twice")
	}
	if p.Class == "" {
		p.Class = "f32"
	}
	s.plan, s.planned = p, true
}

// Param registers a parameter and its gradient, of equal length. Called in Setup, in an order that is equal on all workers.
// The runtime reads and writes both from now on, between the Trainer's calls.
func (s *Session) Param(name string, shape []int, value, grad []float32) {
	if len(value) != len(grad) {
		s.wrong("parameter %s has %d values but %d gradients", name, len(value), len(grad))
		return
	}
	s.register(name, shape, value)
	s.params = append(s.params, param{name, value, grad})
}

// State registers further state (optimizer moments): saved, and sent to joiners.
func (s *Session) State(name string, value []float32) {
	s.register(name, []int{len(value)}, value)
}

func (s *Session) register(name string, shape []int, value []float32) {
	if s.running {
		panic("worker: registration of " + name + " after the first Next")
	}
	n := 1
	for _, d := range shape {
		n *= d
	}
	if n != len(value) {
		s.wrong("%s has the shape %v but %d values", name, shape, len(value))
	}
	for _, t := range s.tensors {
		if t.Name == name {
			s.wrong("%s is registered twice", name)
		}
	}
	s.tensors = append(s.tensors, checkpoint.Tensor{Name: name, Shape: shape, Data: value})
}

func (s *Session) wrong(format string, args ...any) {
	if s.mistake == nil {
		s.mistake = fmt.Errorf("worker: "+format, args...)
	}
}

// Threads is how many threads this worker should compute with.
func (s *Session) Threads() int { return s.cfg.Threads }

// Pin says whether the job wants computing threads bound to processors.
func (s *Session) Pin() bool { return s.cfg.Pin }

// Device is the device that the job asks for: auto, cpu or cuda.
func (s *Session) Device() string { return s.cfg.Device }

// Logger is where the program's parts write to.
func (s *Session) Logger() *slog.Logger { return s.log }

// LocalRank is this worker's slot on its host: which of several GPUs to use.
func (s *Session) LocalRank() int { return s.cfg.LocalRank }
