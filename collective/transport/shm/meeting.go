//go:build linux

package shm

import (
	"sync/atomic"
	"time"

	"github.com/farandole-ml/farandole/collective"
)

// meetings are how ranks go through an operation together. Each rank publishes what it has for meeting n, then waits until all
// others have published theirs. What was published with meeting n is read by the others before they publish n+1, so
// its place, the one with number n&1, may be written again once meeting n+1 has been held. Nothing else orders the ranks'
// accesses: an operation whose peers read or write this rank's registered memory ends with one more meeting.
type meetings struct {
	count uint32        // of meetings that this rank has published
	held  atomic.Uint32 // of those that it has seen held
}

// stage is the number of the place for the next meeting.
func (t *member) stage() uint32 { return (t.count + 1) & 1 }

// publish makes the next meeting's line say op, and all that was written before visible to the peers.
func (t *member) publish(op *collective.Op, flags uint32, in, out place) {
	t.count++
	l := t.own.line[t.count&1]
	l.kind, l.seq, l.bytes, l.shape = uint32(op.Kind), op.Seq, op.Bytes, op.Shape
	l.flags, l.in, l.out, l.buffers = flags, in.offset, out.offset, [2]uint32{in.buffer, out.buffer}
	publishWord(&l.count, &l.sleepers, t.count)
}

// gather waits until every rank has published the current meeting, and checks that all are at op.
func (t *member) gather(op *collective.Op) error {
	world := len(t.peers)
	for i := 1; i < world; i++ {
		r := t.id.Rank + i
		if r >= world {
			r -= world
		}
		l := t.peers[r].seg.line[t.count&1]
		for seen := atomic.LoadUint32(&l.count); seen != t.count; {
			var err error
			if seen, err = t.await(r, &l.count, &l.sleepers, seen); err != nil {
				return t.failMeeting(op, err)
			}
		}
		if got := l.op(); got != *op {
			return t.fail(t.outOfStep(r, got))
		}
		if atomic.LoadUint32(&l.left) != 0 && int32(atomic.LoadUint32(&l.held)-t.count) < 0 {
			return t.fail(t.whyLeft(r)) // it came, and gave up before all had come
		}
	}
	t.held.Store(t.count)
	return nil
}

// goodbyeIn is how long a rank that is known to have left may take to say why.
const goodbyeIn = 50 * time.Millisecond

// whyLeft is the departure of rank r, which has given the group up: by its goodbye, which is on its way.
func (t *member) whyLeft(r int) error {
	for start := time.Now(); time.Since(start) < goodbyeIn && !t.aborted(); time.Sleep(goodbyeIn / 100) {
		if gone := t.peers[r].gone.Load(); gone != nil {
			return gone
		}
	}
	return t.blame(r, collective.ErrPeerLeft)
}

// meet is publish and gather.
func (t *member) meet(op *collective.Op) error {
	t.publish(op, 0, place{}, place{})
	return t.gather(op)
}

// failMeeting ends the group because a meeting was not held. A rank that has come to it with another operation is a
// better reason than that another one left because of it.
func (t *member) failMeeting(op *collective.Op, err error) error {
	for r, p := range t.peers {
		if p == nil {
			continue
		}
		l := p.seg.line[t.count&1]
		if atomic.LoadUint32(&l.count) != t.count {
			continue // it may be writing the rest
		}
		if got := l.op(); got != *op {
			return t.fail(t.outOfStep(r, got))
		}
	}
	return t.fail(err)
}

// ahead says whether rank from has come to a meeting that this rank has not come to, and by what operation.
func (t *member) ahead(from int) (collective.Op, bool) {
	for _, l := range t.peers[from].seg.line {
		if int32(atomic.LoadUint32(&l.count)-t.count) > 0 {
			return l.op(), true
		}
	}
	return collective.Op{}, false
}
