package elastic

import "time"

// State decides one job's views. It is a pure state machine: the coordinator and the simulator both drive it.
// The zero value is not usable; call New or Restore.
type State struct {
	policy Policy
}

// New starts a job that never ran.
func New(p Policy) *State { panic("TODO") }

// Restore goes on after a coordinator restart from the last Persist that was durable.
func Restore(p Policy, r Record, now time.Duration) *State { panic("TODO") }

// Step takes one event at time now (monotonic, from any origin, never going back) and says what to do.
func (s *State) Step(now time.Duration, e Event) []Action { panic("TODO") }
