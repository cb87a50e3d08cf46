// Package inproc connects the ranks of a group inside one process, for tests. A Send waits for its Recv: whatever
// relies on a network's buffers to make progress hangs here first.
package inproc

import (
	"sync"

	"github.com/farandole-ml/farandole/collective"
)

// New gives the transports of a group of world ranks.
func New(world int) []collective.Transport {
	pipes := make([][]chan message, world) // [from][to]
	all := make([]*transport, world)
	for r := range all {
		pipes[r] = make([]chan message, world)
		for to := range pipes[r] {
			pipes[r][to] = make(chan message)
		}
		all[r] = &transport{rank: r, pipes: pipes, taken: make([]chan struct{}, world), all: all, over: make(chan struct{})}
		for to := range all[r].taken {
			all[r].taken[to] = make(chan struct{}, 1)
		}
	}
	group := make([]collective.Transport, world)
	for r := range all {
		group[r] = all[r]
	}
	return group
}

// message lends a sender's bytes to a receiver until that says taken.
type message struct {
	op    collective.Op
	bytes []byte
	taken chan struct{}
}

type transport struct {
	rank  int
	pipes [][]chan message
	taken []chan struct{} // by receiver
	all   []*transport
	over  chan struct{} // closed by the first Abort

	mu  sync.Mutex
	err error
	op  collective.Op
}

func (t *transport) Rank() int  { return t.rank }
func (t *transport) World() int { return len(t.all) }

// Mark implements collective.Marker.
func (t *transport) Mark(op collective.Op) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.op = op
}

func (t *transport) marked() collective.Op {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.op
}

func (t *transport) Send(to int, b []byte) error {
	m := message{t.marked(), b, t.taken[to]}
	select {
	case <-t.over:
		return t.cause()
	case <-t.all[to].over:
		return t.lost(to)
	case t.pipes[t.rank][to] <- m:
		<-m.taken // soon: the receiver only copies
		return nil
	}
}

func (t *transport) Recv(from int, b []byte) error {
	select {
	case <-t.over:
		return t.cause()
	case m := <-t.pipes[from][t.rank]:
		return t.take(from, b, m)
	case <-t.all[from].over:
	}
	return t.lost(from)
}

func (t *transport) take(from int, b []byte, m message) error {
	defer func() { m.taken <- struct{}{} }()
	if op := t.marked(); m.op != op || len(m.bytes) != len(b) {
		return t.fail(from, &collective.OutOfStepError{Got: m.op, Want: op, GotBytes: uint64(len(m.bytes)), WantBytes: uint64(len(b))})
	}
	copy(b, m.bytes)
	return nil
}

func (t *transport) Abort(cause error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.err == nil {
		t.err = cause
		close(t.over)
	}
}

func (t *transport) Close() error {
	t.Abort(collective.ErrClosed)
	return nil
}

func (t *transport) cause() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.err
}

// fail ends this transport because of a peer.
func (t *transport) fail(peer int, err error) error {
	t.Abort(&collective.PeerError{Rank: peer, Op: t.marked().Kind.String(), Err: err})
	return t.cause()
}

// lost ends this transport because a peer has ended its own, which told why.
func (t *transport) lost(peer int) error {
	told := collective.Farewell(t.all[peer].cause())
	t.Abort(collective.ReadFarewell(told, peer, t.rank, t.World(), t.marked().Kind))
	return t.cause()
}
