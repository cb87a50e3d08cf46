//go:build linux

package shm

import (
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// A wait first looks again and again, which answers fastest; then it lets others run between two looks, other processes or
// goroutines of this one, because it is one of them that it waits for when there are more ranks than cores; then it
// sleeps in the kernel, so that a rank whose peers compute for long takes no processor time.
const (
	// spins is how often a wait looks when every rank has a core: some 10 µs. To yield too early gives the core away to whatever
	// else runs on the host, for much longer.
	spins = 20000
	// crowdedSpins is the same when ranks share cores.
	crowdedSpins = 20
	// yieldFor is how long a wait yields before it sleeps.
	yieldFor = time.Millisecond
	// apartGosched says how often one in so many yields is to goroutines of this process. It may wake a thread, which takes
	// longer than all else here; but the process must let its goroutines live.
	apartGosched = 64
	// togetherNap is the sleep of a process that has several of the ranks. It is left to Go, which can run another
	// rank meanwhile: a thread in the kernel keeps its place among those that run goroutines for a while.
	togetherNap = 100 * time.Microsecond
	// napFor is the longest sleep. It bounds how long a rank takes to see that the group has ended.
	napFor = 10 * time.Millisecond
)

// yieldsPerLook is how many yields there are between two looks at the clock.
const yieldsPerLook = 16

// await waits until *value is not old, and gives it. It ends with an error when the group is over, or when rank from,
// whose doing it waits for, has left.
func (t *member) await(from int, value, sleepers *uint32, old uint32) (uint32, error) {
	alarm := t.alarm.Load()
	if alarm != 0 {
		if v := atomic.LoadUint32(value); v != old {
			return v, nil
		}
		if err := t.look(from, value, old); err != nil {
			return old, err
		}
	}
	for range t.spins {
		if v := atomic.LoadUint32(value); v != old {
			return v, nil
		}
		if t.alarm.Load() != alarm {
			break
		}
	}
	return t.awaitSlowly(from, value, sleepers, old)
}

func (t *member) awaitSlowly(from int, value, sleepers *uint32, old uint32) (uint32, error) {
	var start time.Time
	for i := 0; ; i++ {
		if v := atomic.LoadUint32(value); v != old {
			return v, nil
		}
		if t.alarm.Load() != 0 {
			if err := t.look(from, value, old); err != nil {
				return old, err
			}
		}
		if t.together || i%apartGosched == apartGosched-1 {
			runtime.Gosched()
		} else {
			yieldThread()
		}
		if i%yieldsPerLook == 0 {
			if start.IsZero() {
				start = time.Now()
			} else if time.Since(start) > yieldFor {
				break
			}
		}
	}
	for {
		if err := t.stalled(from, value, old); err != nil {
			return old, err
		}
		if t.together {
			time.Sleep(togetherNap)
		} else {
			t.nap(value, sleepers, old)
		}
		if v := atomic.LoadUint32(value); v != old {
			return v, nil
		}
	}
}

// nap sleeps until *value is not old, or until this process has reason to look around, for napFor at most.
func (t *member) nap(value, sleepers *uint32, old uint32) {
	alarm := t.alarm.Load()
	atomic.AddUint32(sleepers, 1)
	t.naps.add(value)
	if atomic.LoadUint32(value) == old && t.alarm.Load() == alarm {
		sleepWord(value, old, napFor)
	}
	t.naps.remove(value)
	atomic.AddUint32(sleepers, ^uint32(0))
}

// naps are the words that this rank's calls sleep on.
type naps struct {
	mu    sync.Mutex
	words []*uint32 // guarded by mu
}

func (n *naps) add(w *uint32) {
	n.mu.Lock()
	n.words = append(n.words, w)
	n.mu.Unlock()
}

func (n *naps) remove(w *uint32) {
	n.mu.Lock()
	n.words = slices.Delete(n.words, slices.Index(n.words, w), slices.Index(n.words, w)+1)
	n.mu.Unlock()
}

// end wakes all that sleep. One that is just about to sleep may miss it, and sleeps for napFor.
func (n *naps) end() {
	n.mu.Lock()
	for _, w := range n.words {
		wakeWord(w)
	}
	n.mu.Unlock()
}

// look says why a wait for rank from must end, if it must. What from did before it left counts.
func (t *member) look(from int, value *uint32, old uint32) error {
	if t.aborted() {
		return t.cause()
	}
	gone := t.peers[from].gone.Load()
	if gone == nil || atomic.LoadUint32(value) != old {
		return nil
	}
	return gone
}

// stalled is look for a wait that takes long. Then a failure of any rank ends it, because the one that is waited for may be
// busy for longer than a failure may take to show; and a rank that is waited for but has come to a later meeting
// already will never do what it is waited for.
func (t *member) stalled(from int, value *uint32, old uint32) error {
	if err := t.look(from, value, old); err != nil {
		return err
	}
	if got, ahead := t.ahead(from); ahead && atomic.LoadUint32(value) == old {
		return t.outOfStep(from, got)
	}
	if t.alarm.Load() == 0 {
		return nil
	}
	for _, p := range t.peers {
		if p == nil {
			continue
		}
		if gone := p.gone.Load(); gone != nil && !gone.polite && atomic.LoadUint32(value) == old {
			return gone
		}
	}
	return nil
}
