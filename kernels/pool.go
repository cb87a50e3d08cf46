package kernels

import (
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// pool runs the parts of a task on up to threads goroutines, the caller's among them. The others start with the first
// task of several parts and end with close. Tasks come one at a time, from one goroutine.
//
// Nobody is given a part: each goroutine claims the next one, so the caller never waits for a goroutine that has
// not been scheduled yet; on a busy machine it computes all parts itself.
//
// A pool with pins has threads goroutines of its own, each bound to a processor. The caller, whose thread is the program's, only waits.
type pool struct {
	threads int
	pins    []int // processors, one for each thread; nil when threads go where the system puts them

	own     turn // the caller's
	task    part
	claims  atomic.Uint64 // serial<<32 | parts<<16 | next part: see claim
	pending atomic.Int32  // parts not yet done

	wake    chan struct{} // a token: there may be work; nil until started
	done    chan struct{} // a token for each task whose last part was done by another goroutine than the caller
	workers sync.WaitGroup
}

// part computes part i of n of its task.
type part interface{ run(i, n int) }

// maxParts bounds the parts of one task, which claims counts in 16 bits.
const maxParts = 1 << 15

// spinFor is how long a goroutine looks for work, or the caller for the end of it, before it sleeps. Operations follow
// each other within microseconds and waking a thread takes as long as a small operation; longer wastes a processor that others may want.
const spinFor = 30 * time.Microsecond

// run computes all n parts and returns when they are done.
func (p *pool) run(t part, n int) {
	if n < 1 || p.pins == nil && (n == 1 || p.threads == 1) {
		for i := range n {
			t.run(i, n)
			p.own.yield()
		}
		return
	}
	if p.wake == nil {
		p.start()
	}
	p.task = t
	p.pending.Store(int32(n))
	p.claims.Store((p.claims.Load()>>32+1)<<32 | uint64(n)<<16)
	others := min(n, p.threads)
	if p.pins == nil {
		others--
	}
	for range others {
		select {
		case p.wake <- struct{}{}:
		default: // as many tokens as goroutines are there already
		}
	}
	if p.pins != nil {
		<-p.done
		return
	}
	if !p.work(&p.own) {
		spin(func() bool { return len(p.done) > 0 }, runtime.Gosched)
		<-p.done
	}
}

// work does parts until none is left to claim, and says whether it did the task's last one. A nil turn never ends.
func (p *pool) work(mine *turn) (last bool) {
	for {
		i, n := p.claim()
		if n == 0 {
			return last
		}
		p.task.run(i, n)
		last = p.pending.Add(-1) == 0
		mine.yield()
	}
}

// turn is the time that a goroutine computes without a word to the run-time. After 10 ms the run-time's monitor takes its slot away
// during a call of C, and as often again, looking every 20 µs, until the goroutine was scheduled anew.
type turn struct{ began time.Time }

const turnLen = 4 * time.Millisecond

func (t *turn) yield() {
	if t == nil {
		return
	}
	if now := time.Now(); now.Sub(t.began) >= turnLen {
		t.began = now
		runtime.Gosched()
	}
}

// claim takes part i of n of the running task, or n = 0 when none is left. Between a successful claim and the end
// of that part the task cannot change.
func (p *pool) claim() (i, n int) {
	for {
		c := p.claims.Load()
		i, n = int(c&0xffff), int(c>>16&0xffff)
		if i >= n {
			return 0, 0
		}
		if p.claims.CompareAndSwap(c, c+1) {
			return i, n
		}
	}
}

func (p *pool) start() {
	others := p.threads - 1
	if p.pins != nil {
		others = p.threads
	}
	p.wake = make(chan struct{}, others)
	p.done = make(chan struct{}, 1)
	for i := range others {
		p.workers.Go(func() {
			pause, mine := runtime.Gosched, new(turn)
			if p.pins != nil {
				defer bind(p.pins[i])()
				pause, mine = func() {}, nil // a goroutine that is bound to its thread yields by putting the thread to sleep
			}
			for range p.wake {
				if p.work(mine) {
					p.done <- struct{}{}
				}
				spin(func() bool { return len(p.wake) > 0 }, pause)
			}
		})
	}
}

// spin waits until ready, or spinFor has passed.
func spin(ready func() bool, pause func()) {
	for start := time.Now(); !ready() && time.Since(start) < spinFor; {
		pause()
	}
}

func (p *pool) close() {
	if p.wake != nil {
		close(p.wake)
		p.workers.Wait()
		p.wake = nil
	}
}

// cut is where part i of n of [0, length) begins when boundaries are multiples of align.
func cut(length, align, i, n int) int {
	units := (length + align - 1) / align
	return min(units*i/n*align, length)
}
