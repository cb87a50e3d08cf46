package kernels

import (
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// pins are the processors for the threads of a host's worker of number rank.
func pins(rank, threads int) ([]int, error) {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		return nil, fmt.Errorf("which processors this process may use is not known: %w", err)
	}
	var all []int
	for cpu := range len(set) * 64 {
		if set.IsSet(cpu) {
			all = append(all, cpu)
		}
	}
	if threads > len(all) {
		return nil, fmt.Errorf("%d threads cannot have a processor each of %d: use at most %d threads", threads, len(all), len(all))
	}
	out := make([]int, threads)
	for i := range out {
		out[i] = all[(rank*threads+i)%len(all)]
	}
	return out, nil
}

// bind keeps the calling goroutine on a thread of its own on one processor, until it calls release. Where that cannot be done, the
// thread runs on any processor.
func bind(cpu int) (release func()) {
	runtime.LockOSThread()
	var before, one unix.CPUSet
	one.Set(cpu)
	if unix.SchedGetaffinity(0, &before) != nil || unix.SchedSetaffinity(0, &one) != nil {
		return runtime.UnlockOSThread
	}
	return func() {
		if unix.SchedSetaffinity(0, &before) == nil {
			runtime.UnlockOSThread()
		} // else the thread ends with the goroutine
	}
}
