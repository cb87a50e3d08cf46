package grpc

import (
	"errors"
	"fmt"
	"hash/crc32"
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

	over    chan struct{} // closed by the first Abort
	leaving sync.WaitGroup

	mu  sync.Mutex // guards err
	err error
}

// peer is a link and the state of its two directions. Each direction has one user at a time.
type peer struct {
	rank int
	link *link

	sent uint32
	head [headerBytes]byte // of the frame that is being sent

	received uint32
	taken    int // received bytes that were not granted again yet
	grant    [headerBytes]byte
}

// newGroup takes over the links, by rank; nil for the own one.
func newGroup(id transport.ID, links []*link, checksum bool) *group {
	t := &group{id: id, peers: make([]*peer, len(links)), checksum: checksum, over: make(chan struct{})}
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
	if err := t.cause(); err != nil {
		return err
	}
	p := t.peers[to]
	if len(b) <= copyBytes {
		if !p.link.allow.take(cost(len(b)), t.over, p.link.done) {
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
		if !p.link.allow.take(cost(len(piece)), t.over, p.link.done) {
			return t.gone(p)
		}
		t.encode(p, piece, place, len(b))
		if err := p.link.send(&outgoing{head: p.head[:], body: piece, lease: p.link.lease}); err != nil {
			return t.gone(p)
		}
	}
	return nil
}

// TrySend implements collective.Eager: what is copied needs no waiting while the peer's allowance lasts.
func (t *group) TrySend(to int, b []byte) (bool, error) {
	if err := t.cause(); err != nil {
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
	t.encode(p, b, 0, len(b))
	if err := p.link.send(&outgoing{head: p.head[:], body: b}); err != nil {
		return t.gone(p)
	}
	return nil
}

func (t *group) encode(p *peer, piece []byte, place, total int) {
	h := header{op: t.op, bytes: uint64(total), place: uint64(place), number: p.sent}
	if t.checksum {
		h.flags, h.checksum = flagChecksum, crc32.Checksum(piece, castagnoli)
	}
	h.encode(p.head[:])
}

// Recv implements collective.Transport.
func (t *group) Recv(from int, b []byte) error {
	p := t.peers[from]
	p.received++
	for place := 0; ; {
		if err := t.cause(); err != nil {
			return err
		}
		f, err := p.link.in.take(t.over, nil)
		if errors.Is(err, errOver) {
			return t.cause()
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
		return 0, fmt.Errorf("%w: a message that is no frame", ErrCorrupt)
	case f.number != p.received:
		return 0, fmt.Errorf("%w: message %d came as number %d", ErrCorrupt, p.received, f.number)
	case f.op != t.op || f.bytes != uint64(len(b)):
		return 0, &collective.OutOfStepError{Got: f.op, Want: t.op, GotBytes: f.bytes, WantBytes: uint64(len(b))}
	case f.place != uint64(place) || n > len(b)-place || n == 0 && len(b) > 0:
		return 0, fmt.Errorf("%w: %d bytes for place %d of a message of which %d of %d had come", ErrCorrupt, n, f.place, place, len(b))
	}
	piece := b[place : place+n]
	if _, err := io.ReadFull(f.data, piece); err != nil {
		return 0, err
	}
	if t.checksum && f.checksum != crc32.Checksum(piece, castagnoli) {
		return 0, fmt.Errorf("%w: checksum of message %d", ErrCorrupt, f.number)
	}
	return n, nil
}

// grant lets p send as much again as was taken from it. A peer that cannot be told because it has left, after all that
// it had to send, does not need it; any other end of the link is found by what is called next.
func (t *group) grant(p *peer, n int) {
	if p.taken += cost(n); p.taken < grantBytes {
		return
	}
	header{op: collective.Op{Kind: kindGrant}, bytes: uint64(p.taken)}.encode(p.grant[:])
	p.taken = 0
	_ = p.link.send(&outgoing{head: p.grant[:]})
}

// gone ends the group because p's link has ended, or because the group is over.
func (t *group) gone(p *peer) error {
	select {
	case <-t.over:
		return t.cause()
	case <-p.link.done: // soon, if it is not: gRPC ends both directions of a stream
	}
	if g := p.link.goodbye; g != nil {
		t.Abort(collective.ReadFarewell(g, p.rank, t.id.Rank, len(t.peers), t.op.Kind))
		return t.cause()
	}
	return t.fail(p, p.link.in.failure())
}

func (t *group) cause() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.err
}

// fail ends the group because of what happened with p, and returns the first cause.
func (t *group) fail(p *peer, err error) error {
	t.Abort(&collective.PeerError{Rank: p.rank, Op: t.op.Kind.String(), Err: err})
	return t.cause()
}

// Abort implements collective.Transport. Its goodbyes are on their way when it returns, or when Close does.
func (t *group) Abort(cause error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.err != nil {
		return
	}
	t.err = cause
	close(t.over)
	words := goodbye(cause)
	for _, p := range t.peers {
		if p != nil {
			t.leaving.Go(func() { p.link.leave(words) })
		}
	}
}

// Close implements collective.Transport. It waits until the peers have taken what was sent, at most linger.
func (t *group) Close() error {
	t.Abort(collective.ErrClosed)
	t.leaving.Wait()
	return nil
}
