package kernels

import "sync/atomic"

// ranges hands the units of a task's phases to threads. Each thread has a range of its own, next to each other in memory and the same
// in every phase of that length, and takes from its beginning; one that has used up its range takes from the ends of others'. So threads
// of equal speed go through memory in order and end together, and a thread that is held up, or has not come yet, holds up nobody.
//
// A phase begins for a thread when it asks for its units, and has to be over, with nothing left to take, when it asks for the next one's.
type ranges struct{ slots []slot }

// slot is what is left of a thread's range: phase<<44 | first<<22 | end. In a later phase all of it is left. It has a cache line of its own.
type slot struct {
	atomic.Uint64
	_ [56]byte
}

const (
	slotBits  = 22
	maxUnits  = 1<<slotBits - 1        // of a phase
	maxPhases = 1<<(64-2*slotBits) - 1 // of a task, the first being phase 1
)

// reset prepares for a task of the given number of threads. Nobody may be taking units.
func (r *ranges) reset(threads int) {
	if len(r.slots) < threads {
		r.slots = make([]slot, threads)
	}
	r.slots = r.slots[:threads]
	for i := range r.slots {
		r.slots[i].Store(0)
	}
}

// take gives the thread units [from,to), up to most, of a phase with the given number of units; none are left when from is to.
// Where it goes on as before, next is the unit that it will want first, or else -1.
func (r *ranges) take(thread, phase, units, most int) (from, to, next int) {
	for i := range r.slots {
		owner := (thread + i) % len(r.slots)
		s := &r.slots[owner]
		for {
			was := s.Load()
			at, lo, hi := int(was>>(2*slotBits)), int(was>>slotBits&maxUnits), int(was&maxUnits)
			if at < phase {
				lo, hi = units*owner/len(r.slots), units*(owner+1)/len(r.slots)
			}
			if at > phase || lo == hi {
				break
			}
			from, to, next = lo, lo+r.bite(hi-lo, most), -1
			left := uint64(phase)<<(2*slotBits) | uint64(to)<<slotBits | uint64(hi)
			if i > 0 {
				from, to = hi-max(1, min((hi-lo)/4, most)), hi
				left = uint64(phase)<<(2*slotBits) | uint64(lo)<<slotBits | uint64(from)
			} else if to < hi {
				next = to
			}
			if s.CompareAndSwap(was, left) {
				return from, to, next
			}
		}
	}
	return 0, 0, -1
}

// bite is how many of the units left in its range a thread takes: towards the end fewer, so that there is something to
// take for others.
func (r *ranges) bite(left, most int) int {
	switch {
	case len(r.slots) == 1 || left >= 2*most:
		return min(left, most)
	case left > most:
		return max(1, most/2)
	}
	return 1
}
