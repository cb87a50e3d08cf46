package grpc

import (
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/farandole-ml/farandole/collective"
	"github.com/farandole-ml/farandole/collective/transport"
)

// group is one rank's place in a formed mesh. It implements collective.Transport, Marker and Eager.
type group struct {
	id       transport.ID
	peers    []*peer // by rank; nil for this one
	checksum bool
	op       collective.Op // written by Mark alone, while no Send and no Recv runs

	ending  *transport.Ending
	leaving sync.WaitGroup
}

// peer is a link and the state of its two directions. Each direction has one user at a time.
type peer struct {
	rank int
	link *link

	sent uint32
	head [transport.HeaderBytes]byte // of the frame that is being sent

	received uint32
	taken    int // received bytes that were not granted again yet
	grant    [transport.HeaderBytes]byte
}

// newGroup takes over the links, by rank; nil for the own one.
func newGroup(id transport.ID, links []*link, checksum bool) *group {
	t := &group{id: id, peers: make([]*peer, len(links)), checksum: checksum, ending: transport.NewEnding()}
	for r, l := range links {
		if l != nil {
			t.peers[r] = &peer{rank: r, link: l}
		}
	}
	return t
}

func (t *group) Rank() int  { return t.id.Rank }
func (t *group) World() int { return len(t.peers) }

// Mark implements collective.Marker.
func (t *group) Mark(op collective.Op) { t.op = op }

// Send implements collective.Transport.
func (t *group) Send(to int, b []byte) error {
	if err := t.ending.Cause(); err != nil {
		return err
	}
	p := t.peers[to]
	if len(b) <= copyBytes {
		if !p.link.allow.take(cost(len(b)), t.ending.Over(), p.link.done) {
			return t.gone(p)
		}
		return t.sendCopy(p, b)
	}
	p.sent++
	p.link.lease.begin()
	err := t.sendPieces(p, b)
	p.link.lease.end(p.link.socket.ended)
	return err
}

func (t *group) sendPieces(p *peer, b []byte) error {
	for place := 0; place < len(b); place += pieceBytes {
		piece := b[place:min(place+pieceBytes, len(b))]
		if !p.link.allow.take(cost(len(piece)), t.ending.Over(), p.link.done) {
			return t.gone(p)
		}
		t.encode(p, piece, len(b))
		if err := p.link.send(&outgoing{head: p.head[:], body: piece, lease: p.link.lease}); err != nil {
			return t.gone(p)
		}
	}
	return nil
}

// TrySend implements collective.Eager: what is copied needs no waiting while the peer's allowance lasts.
func (t *group) TrySend(to int, b []byte) (bool, error) {
	if err := t.ending.Cause(); err != nil {
		return false, err
	}
	p := t.peers[to]
	if len(b) > copyBytes || !p.link.allow.tryTake(cost(len(b))) {
		return false, nil
	}
	if err := t.sendCopy(p, b); err != nil {
		return false, err
	}
	return true, nil
}

func (t *group) sendCopy(p *peer, b []byte) error {
	p.sent++
	t.encode(p, b, len(b))
	if err := p.link.send(&outgoing{head: p.head[:], body: b}); err != nil {
		return t.gone(p)
	}
	return nil
}

func (t *group) encode(p *peer, piece []byte, total int) {
	h := transport.Header{Op: t.op, Bytes: uint64(total), Number: p.sent}
	if t.checksum {
		h.Sum(piece)
	}
	h.Encode(&p.head, frameMagic)
}

// Recv implements collective.Transport.
func (t *group) Recv(from int, b []byte) error {
	p := t.peers[from]
	p.received++
	for place := 0; ; {
		if err := t.ending.Cause(); err != nil {
			return err
		}
		f, err := p.link.in.take(t.ending.Over(), nil)
		if errors.Is(err, errOver) {
			return t.ending.Cause()
		}
		if err != nil {
			return t.gone(p)
		}
		n, err := t.accept(p, &f, b, place)
		_ = f.data.Close()
		if err != nil {
			return t.fail(p, err)
		}
		t.grant(p, n)
		if place += n; place == len(b) {
			return nil
		}
	}
}

// accept puts a frame where it belongs in b and gives the length of what it carried.
func (t *group) accept(p *peer, f *frame, b []byte, place int) (int, error) {
	n := f.data.Remaining()
	switch {
	case f.raw:
		return 0, fmt.Errorf("%w: a message that is no frame", transport.ErrCorrupt)
	case f.Number != p.received:
		return 0, fmt.Errorf("%w: message %d came as number %d", transport.ErrCorrupt, p.received, f.Number)
	case f.Op != t.op || f.Bytes != uint64(len(b)):
		return 0, &collective.OutOfStepError{Got: f.Op, Want: t.op, GotBytes: f.Bytes, WantBytes: uint64(len(b))}
	case n > len(b)-place || n == 0 && len(b) > 0:
		return 0, fmt.Errorf("%w: %d bytes for a message of which %d of %d had come", transport.ErrCorrupt, n, place, len(b))
	}
	piece := b[place : place+n]
	if _, err := io.ReadFull(f.data, piece); err != nil {
		return 0, err
	}
	if t.checksum {
		if err := f.Check(piece); err != nil {
			return 0, err
		}
	}
	return n, nil
}

// grant lets p send as much again as was taken from it. A peer that cannot be told because it has left, after all that
// it had to send, does not need it; any other end of the link is found by what is called next.
func (t *group) grant(p *peer, n int) {
	if p.taken += cost(n); p.taken < grantBytes {
		return
	}
	h := transport.Header{Op: collective.Op{Kind: kindGrant}, Bytes: uint64(p.taken)}
	h.Encode(&p.grant, frameMagic)
	p.taken = 0
	_ = p.link.send(&outgoing{head: p.grant[:]})
}

// gone ends the group because p's link has ended, or because the group is over.
func (t *group) gone(p *peer) error {
	select {
	case <-t.ending.Over():
		return t.ending.Cause()
	case <-p.link.done: // soon, if it is not: gRPC ends both directions of a stream
	}
	if g := p.link.goodbye; g != nil {
		t.Abort(collective.ReadFarewell(g, p.rank, t.id.Rank, len(t.peers), t.op.Kind))
		return t.ending.Cause()
	}
	return t.fail(p, p.link.in.failure())
}

// fail ends the group because of what happened with p, and returns the first cause.
func (t *group) fail(p *peer, err error) error {
	t.Abort(&collective.PeerError{Rank: p.rank, Op: t.op.Kind.String(), Err: err})
	return t.ending.Cause()
}

// Abort implements collective.Transport. Its goodbyes are on their way when it returns, or when Close does.
func (t *group) Abort(cause error) {
	t.ending.End(cause, func() {
		limit := linger
		if errors.Is(cause, collective.ErrClosed) {
			limit = closing
		}
		words := transport.Goodbye(cause, frameMagic)
		for _, p := range t.peers {
			if p != nil {
				t.leaving.Go(func() { p.link.leave(words, limit) })
			}
		}
	})
}

// Close implements collective.Transport. It waits until the peers have taken what was sent, for a limited time.
func (t *group) Close() error {
	t.Abort(collective.ErrClosed)
	t.leaving.Wait()
	return nil
}
