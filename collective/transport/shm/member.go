//go:build linux

package shm

import (
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/farandole-ml/farandole/collective"
	"github.com/farandole-ml/farandole/collective/transport"
)

// ErrCorrupt says that what a peer left in shared memory is not what a peer leaves there.
var ErrCorrupt = errors.New("corrupt shared memory")

// member is one rank's place in a group. It implements collective.Transport, Marker, Eager, Sharer and Allocator.
// It has one goroutine for each peer, which reads the peer's notes.
type member struct {
	id         transport.ID
	names      names
	own        *segment
	peers      []*peer // by rank; nil for this one
	arena      *arena
	log        *slog.Logger
	stageBytes int    // see Config
	spins      int    // see await
	stores     stores // of what all peers read
	together   bool   // some peer is in this process
	meetings
	registry
	task task

	// alarm changes when a wait has reason to look at what has happened.
	alarm atomic.Uint32
	naps  naps
	// holds counts who may touch the mappings: every running call, every reader, and one until Abort.
	holds    atomic.Int64
	readers  sync.WaitGroup
	released chan struct{} // closed when the mappings are gone

	// order tells the race detector, which does not see shared memory, that what is received comes after what was sent
	// to the peers that answer it: a buffer may be received into once it has been sent.
	order atomic.Uint32

	over chan struct{} // closed by the first Abort
	mu   sync.Mutex    // guards the rest
	err  error
	op   collective.Op
}

// peer is another rank as this one sees it. Each direction of the messages has one user at a time.
type peer struct {
	rank   int
	link   link
	seg    *segment
	stores stores // of what this peer alone reads
	gone   atomic.Pointer[departure]

	buffers atomic.Pointer[[]foreign] // the peer's registered memory, replaced as a whole by its reader

	sent     uint32 // messages
	written  uint32 // position in the own ring to the peer
	received uint32
	read     uint32 // position in the peer's ring to this rank
}

func (t *member) Rank() int  { return t.id.Rank }
func (t *member) World() int { return len(t.peers) }

// Mark implements collective.Marker.
func (t *member) Mark(op collective.Op) {
	t.mu.Lock()
	t.op = op
	t.mu.Unlock()
}

func (t *member) marked() collective.Op {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.op
}

// enter lets a call touch the mappings until leave; false means that the group is over.
func (t *member) enter() bool {
	if t.aborted() {
		return false
	}
	for {
		n := t.holds.Load()
		if n <= 0 {
			return false
		}
		if t.holds.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// leave gives a hold up. The last one unmaps everything.
func (t *member) leave() {
	if t.holds.Add(-1) > 0 {
		return
	}
	unmapMemory(t.own.mem)
	for _, p := range t.peers {
		if p == nil {
			continue
		}
		unmapMemory(p.seg.mem)
		for _, f := range *p.buffers.Load() {
			unmapMemory(f.mem)
		}
	}
	t.sweep()
	close(t.released)
}

func (t *member) aborted() bool {
	select {
	case <-t.over:
		return true
	default:
		return false
	}
}

func (t *member) cause() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.err
}

// fail ends the group because of err, which a wait gave, and returns the first cause.
func (t *member) fail(err error) error {
	if t.aborted() {
		return t.cause()
	}
	var gone *departure
	if errors.As(err, &gone) {
		err = gone.err
	}
	t.Abort(err)
	return t.cause()
}

func (t *member) blame(rank int, err error) error {
	return &collective.PeerError{Rank: t.names.of(rank), Op: t.marked().Kind.String(), Err: err}
}

// outOfStep is the error of a rank that finds another one at operation got.
func (t *member) outOfStep(rank int, got collective.Op) error {
	return t.blame(rank, &collective.OutOfStepError{Got: got, Want: t.marked()})
}

func (t *member) Abort(cause error) {
	t.mu.Lock()
	if t.err != nil {
		t.mu.Unlock()
		return
	}
	t.err = cause
	close(t.over)
	t.mu.Unlock()
	t.alarm.Add(1)
	if !errors.Is(cause, collective.ErrClosed) {
		for _, l := range t.own.line {
			atomic.StoreUint32(&l.held, t.held.Load())
			atomic.StoreUint32(&l.left, 1)
		}
	}
	t.naps.end()
	t.arena.forget(t)
	bye := farewell(cause)
	for _, p := range t.peers {
		if p != nil {
			p.link.end(bye)
		}
	}
	t.leave()
}

// Close implements collective.Transport. What was sent lies in memory that the peers have mapped.
func (t *member) Close() error {
	t.Abort(collective.ErrClosed)
	t.readers.Wait()
	<-t.released
	return nil
}

// listen reads the notes of p until its socket ends.
func (t *member) listen(p *peer) {
	defer t.leave()
	for {
		n, err := p.link.receive()
		if err == nil {
			err = t.note(p, n)
		}
		if err == nil && n.kind == noteGoodbye {
			t.heed(p, t.departed(p.rank, n))
			return
		}
		if err != nil {
			t.heed(p, t.lost(p.rank, err))
			return
		}
	}
}

// heed keeps the first departure of a peer and lets every wait look.
func (t *member) heed(p *peer, d *departure) {
	if p.gone.CompareAndSwap(nil, d) {
		t.alarm.Add(1)
		t.naps.end()
		t.answerAll(p.rank)
	}
}

// note does what a peer's note asks for.
func (t *member) note(p *peer, n note) error {
	if n.file != nil {
		defer n.file.Close()
	}
	switch n.kind {
	case noteBuffer:
		if n.file == nil {
			return errNote
		}
		return t.adopt(p, n)
	case noteMapped:
		t.answer(p.rank, n.buffer, n.flags&flagDone != 0)
	case noteFreed:
		return t.drop(p, n.buffer)
	case noteGoodbye:
	default:
		return errNote
	}
	return nil
}
