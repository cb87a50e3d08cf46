//go:build fabric && cgo && linux

package fabric

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/farandole-ml/farandole/collective"
	"github.com/farandole-ml/farandole/collective/transport"
)

// group is one rank's place in a formed mesh. It implements collective.Transport, Marker and Eager.
//
// An operation that fails returns after the endpoint has been closed, which is what makes libfabric let go of its
// buffers. The endpoint is closed when every operation has come out of it.
type group struct {
	id       transport.ID
	ep       *endpoint // nil in a group of one
	peers    []*peer   // by rank; nil for this one
	self     *peer     // this one as its own peer, for greet alone
	checksum bool
	stage    bool
	op       collective.Op // written by Mark alone, while no Send and no Recv runs

	over     chan struct{} // closed by the first Abort
	closed   chan struct{} // closed when the endpoint is
	kick     chan struct{} // has a token when small messages are under way and nobody may be polling
	inside   sync.WaitGroup
	watching sync.WaitGroup
	ending   sync.WaitGroup

	mu          sync.Mutex // guards err and interrupted, and entering
	err         error
	interrupted bool // an operation was running when the group ended
}

// errGone says that the peer's connection has ended. It never leaves the package.
var errGone = errors.New("peer gone")

// newGroup takes over the endpoint and the connections, by rank; nil for the own one.
func newGroup(id transport.ID, ep *endpoint, conns []net.Conn, cfg Config) (*group, error) {
	t := &group{
		id: id, ep: ep, peers: make([]*peer, len(conns)), checksum: cfg.Checksum,
		over: make(chan struct{}), closed: make(chan struct{}), kick: make(chan struct{}, 1),
	}
	if ep == nil {
		return t, nil
	}
	t.stage = cfg.Stage || !ep.direct
	i := 0
	for r, c := range conns {
		p := newPeer(r, i*peerOps, c, ep.staging[i*peerBytes:][:peerBytes])
		i++
		if c == nil {
			t.self = p
			continue
		}
		t.peers[r] = p
		for range ahead {
			if err := t.ask(p); err != nil {
				return nil, err
			}
		}
	}
	t.watching.Go(t.push)
	for _, p := range t.peers {
		if p != nil {
			t.watching.Go(func() { t.watch(p) })
		}
	}
	return t, nil
}

// push makes the progress that small messages need when their sender has gone on to other things. It ends with the group.
func (t *group) push() {
	for {
		select {
		case <-t.kick:
		case <-t.over:
			return
		}
		if !t.enter() {
			return
		}
		for t.ep.flying.Load() > 0 && !t.isOver() {
			if !t.ep.poll(0, pollMillis) {
				select {
				case <-t.ep.passed:
				case <-t.over:
				}
			}
		}
		t.ep.pass() // as in await
		t.inside.Done()
	}
}

func (t *group) Rank() int  { return t.id.Rank }
func (t *group) World() int { return len(t.peers) }

// Mark implements collective.Marker.
func (t *group) Mark(op collective.Op) { t.op = op }

// Send implements collective.Transport. It returns when a small message is under way, or a large one is delivered.
func (t *group) Send(to int, b []byte) error {
	if !t.enter() {
		return t.cause()
	}
	p := t.peers[to]
	err := t.leave(p, t.send(p, b))
	p.out.drop()
	return err
}

// TrySend implements collective.Eager: small messages need no waiting while few of them are under way.
func (t *group) TrySend(to int, b []byte) (bool, error) {
	p := t.peers[to]
	if len(b) > smallBytes || !t.ep.slots[p.base+opSend+int((p.sent+1)%ahead)].idle.Load() {
		return false, nil
	}
	if err := t.Send(to, b); err != nil {
		return false, err
	}
	return true, nil
}

func (t *group) send(p *peer, b []byte) error {
	n := p.sent + 1
	op := opSend + int(n%ahead)
	if _, err := t.await(p, op); err != nil {
		return err
	}
	h := transport.Header{Op: t.op, Bytes: uint64(len(b)), Number: n}
	if t.checksum {
		h.Sum(b)
	}
	f := p.frame(op)[:transport.HeaderBytes]
	h.Encode((*[transport.HeaderBytes]byte)(f), frameMagic)
	if len(b) <= smallBytes {
		f = append(f, b...)
	}
	if err := t.post(p, op, func() (bool, error) { return t.ep.send(p.base+op, f, p.rank, headerTag(t.id.Rank, n)) }); err != nil {
		return err
	}
	p.sent = n
	t.ep.flying.Add(1)
	if len(b) > smallBytes {
		return t.sendPieces(p, b)
	}
	return nil
}

// piece is how long a piece of a message of n bytes is.
func (t *group) piece(n int) int {
	if t.stage {
		return min(n, pieceBytes, t.ep.longest)
	}
	return min(n, t.ep.longest)
}

func (t *group) sendPieces(p *peer, b []byte) error {
	p.out.hold(b)
	size := t.piece(len(b))
	for i, place := 0, 0; place < len(b); i, place = i+1, place+size {
		piece := b[place:min(place+size, len(b))]
		if t.stage {
			piece = p.staged(opPiece)[:copy(p.staged(opPiece), piece)]
		}
		err := t.post(p, opPiece, func() (bool, error) {
			return t.ep.send(p.base+opPiece, piece, p.rank, pieceTag(t.id.Rank, p.sent, i))
		})
		if err == nil {
			_, err = t.await(p, opPiece)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Recv implements collective.Transport.
func (t *group) Recv(from int, b []byte) error {
	if !t.enter() {
		return t.cause()
	}
	p := t.peers[from]
	err := t.leave(p, t.recv(p, b))
	p.in.drop()
	return err
}

func (t *group) recv(p *peer, b []byte) error {
	n := p.received + 1
	p.received = n
	large := len(b) > smallBytes
	size := t.piece(len(b))
	if large { // before the header is known to be right: that saves a round; a wrong one ends the group
		p.in.hold(b)
		if err := t.fill(p, b[:size], n, 0); err != nil {
			return err
		}
	}
	h, payload, err := t.head(p, n)
	if err != nil {
		return err
	}
	switch {
	case h.Number != n:
		return fmt.Errorf("%w: message %d came as number %d", transport.ErrCorrupt, n, h.Number)
	case h.Op != t.op || h.Bytes != uint64(len(b)):
		return &collective.OutOfStepError{Got: h.Op, Want: t.op, GotBytes: h.Bytes, WantBytes: uint64(len(b))}
	case !large && len(payload) != len(b) || large && len(payload) != 0:
		return fmt.Errorf("%w: %d bytes behind the header of a message of %d", transport.ErrCorrupt, len(payload), len(b))
	case large:
		err = t.receivePieces(p, b, n, size)
	default:
		copy(b, payload)
	}
	if err == nil && t.checksum {
		err = h.Check(b)
	}
	if err != nil {
		return err
	}
	if err := t.ask(p); err != nil && !errors.Is(err, errGone) {
		return err // what comes after a peer has gone is found missing by who wants it
	}
	p.taken.Store(n)
	return nil
}

// head waits for header number n and what is behind it.
func (t *group) head(p *peer, n uint32) (transport.Header, []byte, error) {
	op := opAhead + int(n%ahead)
	if n > p.asked { // p had gone already when it was this one's turn to be asked for
		return transport.Header{}, nil, errGone
	}
	got, err := t.await(p, op)
	if err != nil {
		return transport.Header{}, nil, err
	}
	f := p.frame(op)[:got]
	h, err := decodeHeader(f)
	if err != nil {
		return transport.Header{}, nil, err
	}
	return h, f[transport.HeaderBytes:], nil
}

func (t *group) fill(p *peer, b []byte, n uint32, i int) error {
	if t.stage {
		b = p.staged(opFill)[:len(b)]
	}
	return t.post(p, opFill, func() (bool, error) { return t.ep.recv(p.base+opFill, b, pieceTag(p.rank, n, i)) })
}

// receivePieces waits for the pieces of message n, the first of which has been asked for.
func (t *group) receivePieces(p *peer, b []byte, n uint32, size int) error {
	for i, place := 0, 0; place < len(b); i, place = i+1, place+size {
		piece := b[place:min(place+size, len(b))]
		if i > 0 {
			if err := t.fill(p, piece, n, i); err != nil {
				return err
			}
		}
		got, err := t.await(p, opFill)
		if err != nil {
			return err
		}
		if got != len(piece) {
			return fmt.Errorf("%w: piece %d of message %d has %d bytes, not %d", transport.ErrCorrupt, i, n, got, len(piece))
		}
		if t.stage {
			copy(piece, p.staged(opFill))
		}
	}
	return nil
}

// post calls f, which posts p's operation op, until there is room for it.
func (t *group) post(p *peer, op int, f func() (bool, error)) error {
	for {
		if ok, err := f(); ok {
			t.ep.stir()
			return nil
		} else if err != nil {
			return err
		}
		if err := t.pause(p, op); err != nil {
			return err
		}
	}
}

// await waits until p's operation op has ended and gives the number of bytes that it moved.
func (t *group) await(p *peer, op int) (int, error) {
	s, end := &t.ep.slots[p.base+op], p.end(op)
	if !s.idle.Load() {
		defer t.ep.pass() // the token that another waits for may have been taken here
	}
	for !s.idle.Load() {
		select {
		case <-t.over:
			return 0, t.cause()
		case <-end:
			for empty := 0; empty < lastLooks && !s.idle.Load(); { // what it sent may be here already
				if t.ep.more() {
					empty = 0
				} else {
					empty++
				}
			}
			if !s.idle.Load() {
				return 0, errGone
			}
			continue
		default:
		}
		if t.ep.poll(pollSpins, pollMillis) {
			continue
		}
		select {
		case <-s.ready:
		case <-t.ep.passed:
		case <-t.over:
		case <-end:
		}
	}
	if s.err != nil {
		return 0, t.broken(p, s.err)
	}
	return s.bytes, nil
}

// pause lets libfabric make progress while p's operation op cannot be posted.
func (t *group) pause(p *peer, op int) error {
	select {
	case <-t.over:
		return t.cause()
	case <-p.end(op):
		return errGone
	default:
		t.ep.poll(0, 1)
		return nil
	}
}

// broken makes the best of an error of libfabric's about p: most often p has gone, and its connection says why.
func (t *group) broken(p *peer, err error) error {
	late := time.NewTimer(linger)
	defer late.Stop()
	select {
	case <-p.left:
		return errGone
	case <-t.over:
		return t.cause()
	case <-late.C:
		return fmt.Errorf("%w: %w", collective.ErrPeerLost, err)
	}
}

func (t *group) isOver() bool {
	select {
	case <-t.over:
		return true
	default:
		return false
	}
}

func (t *group) cause() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.err
}
