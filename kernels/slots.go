package kernels

import (
	"runtime"
	"sync"
)

// slots remembers what GOMAXPROCS was before this package raised it, and to what.
var slots struct {
	mu          sync.Mutex
	before, now int
}

// Processors is how many goroutines should compute at once when nothing else is said: GOMAXPROCS, without the slot that this
// package added.
func Processors() int {
	slots.mu.Lock()
	defer slots.mu.Unlock()
	return processors()
}

func processors() int {
	if n := runtime.GOMAXPROCS(0); n != slots.now {
		return n
	}
	return slots.before
}

// leaveSlot raises GOMAXPROCS so far that the run-time has a slot beside those of threads that compute in C. Where every slot's
// thread is in C, the run-time's monitor looks every 20 µs whether another thread should have the slot and starts one that finds
// nothing to do; on as many processors as threads, both take turns with those that compute. With a free slot it leaves them alone.
func leaveSlot(threads int) {
	slots.mu.Lock()
	defer slots.mu.Unlock()
	if runtime.GOMAXPROCS(0) <= threads {
		slots.before, slots.now = processors(), threads+1
		runtime.GOMAXPROCS(slots.now)
	}
}
