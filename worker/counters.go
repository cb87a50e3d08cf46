package worker

import (
	"sync/atomic"
	"time"
)

// counters are kept by the session's goroutines.
type counters struct {
	steps, skipped, bytes, recoveries, checkpoints, saveFailures atomic.Int64
	wait, saveBlocked                                            atomic.Int64 // nanoseconds
}

// Counters is what a worker did so far.
type Counters struct {
	Steps              int64 // committed by this process
	Skipped            int64 // of these, without an update: the gradient was not finite
	ReducedBytes       int64 // of the vectors that were reduced with others
	Recoveries         int64 // state received from peers or loaded from a checkpoint
	Checkpoints        int64 // complete ones, counted on rank 0
	CheckpointFailures int64
	ReduceTime         time.Duration // in AllReduce: transfer, and waiting for slower ranks
	CheckpointBlocking time.Duration // training stalled for checkpoints
}

// Counters may be called from any goroutine.
func (s *Session) Counters() Counters {
	c := &s.counters
	return Counters{
		Steps: c.steps.Load(), Skipped: c.skipped.Load(), ReducedBytes: c.bytes.Load(),
		Recoveries: c.recoveries.Load(), Checkpoints: c.checkpoints.Load(), CheckpointFailures: c.saveFailures.Load(),
		ReduceTime: time.Duration(c.wait.Load()), CheckpointBlocking: time.Duration(c.saveBlocked.Load()),
	}
}
