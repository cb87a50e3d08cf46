// Package stream is a collective.Transport over stream connections: it cuts them into frames, which say what operation they
// belong to, finds what is corrupt or out of step, and tells the peers why a rank leaves.
package stream

import (
	"fmt"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/farandole-ml/farandole/collective"
	"github.com/farandole-ml/farandole/collective/transport"
)

const frameMagic = 0x464e5246 // "FRNF"

// Config has a transport's settings. The zero value works.
type Config struct {
	// Checksum protects every message by a CRC-32C, verified on receipt. It must be equal on all ranks.
	Checksum bool

	// Here is the number of the group's ranks on this host; zero means 1. With two cores for each of them, a large buffer
	// is sent and received on two threads.
	Here int

	// Look says why the host at the other end of a connection must be taken for lost, if it must: "" otherwise. It is
	// called from one goroutine, for every connection after each Period. Nil means that nobody looks.
	Look   func(fd int) string
	Period time.Duration

	// Hosts names the host of every rank, by rank; nil when it is not known. It must be equal on all ranks.
	Hosts []string

	// Ended is told once when the transport ends, whatever ends it, with the cause. Nil means that nobody is.
	Ended func(cause error)
}

// stream is one rank's place in a formed mesh. It implements collective.Transport, Marker, Duplex and Topology.
type stream struct {
	id       transport.ID
	peers    []*peer // by rank; nil for this one
	checksum bool
	hosts    []string
	op       collective.Op // written by Mark alone, while no Send and no Recv runs
	ended    func(cause error)
	spare    bool
	push     func() // set by Meanwhile alone, while no Recv runs
	from     *peer  // while push is set: whom the running Recv is for
	waiting  waiting

	watching sync.WaitGroup
	checks   atomic.Int64 // that watch has made

	ending *transport.Ending
}

// peer is the connections with one rank and the state of their two directions. Message k travels on connection k modulo their
// number. Each direction has one user at a time.
type peer struct {
	rank    int
	wires   []wire
	sending atomic.Bool // the outgoing stream is inside a frame, or belongs to Abort

	sent   uint32
	outHdr [transport.HeaderBytes]byte
	begun  bool // TrySend left a frame for Send to finish
	gone   int  // bytes of that frame that were sent
	broken bool // it cannot be sent; the Recv that runs will say why

	receiving atomic.Bool // a Recv runs, or the incoming stream belongs to lastWords
	received  uint32
	inHdr     [transport.HeaderBytes]byte
}

// wireOf is the connection of a message, counted from 1.
func (p *peer) wireOf(number uint32) *wire { return &p.wires[number%uint32(len(p.wires))] }

// New makes a transport of the connections with each rank; id's own has none. It owns them, also when it returns an
// error. It has one goroutine, which ends with Close, if cfg.Look is set, and none otherwise.
func New(id transport.ID, conns [][]net.Conn, cfg Config) (collective.Transport, error) {
	t := &stream{id: id, peers: make([]*peer, len(conns)), checksum: cfg.Checksum, hosts: cfg.Hosts, ended: cfg.Ended, spare: 2*max(cfg.Here, 1) <= runtime.NumCPU(), ending: transport.NewEnding()}
	var first error
	for r, group := range conns {
		if r == id.Rank {
			continue
		}
		p := &peer{rank: r, wires: make([]wire, len(group))}
		for i, c := range group {
			err := p.wires[i].init(c)
			if err != nil && first == nil {
				first = &collective.PeerError{Rank: r, Op: "connect", Err: err}
			}
		}
		t.peers[r] = p
	}
	if first != nil {
		t.Abort(first)
		return nil, first
	}
	if cfg.Look != nil {
		t.watching.Go(func() { t.watch(cfg) })
	}
	return t, nil
}

func (t *stream) Rank() int  { return t.id.Rank }
func (t *stream) World() int { return len(t.peers) }

// Host implements collective.Topology: ranks whose host is not known count as sharing one.
func (t *stream) Host(rank int) string {
	if t.hosts == nil {
		return ""
	}
	return t.hosts[rank]
}

// Mark implements collective.Marker.
func (t *stream) Mark(op collective.Op) { t.op = op }

func (t *stream) Send(to int, b []byte) error {
	p := t.peers[to]
	if !p.begun && !t.begin(p, b) {
		return t.ending.Cause()
	}
	p.begun = false
	if err := p.wireOf(p.sent).write(p.outHdr[:], b, p.gone); err != nil {
		return t.unsendable(p, err)
	}
	p.sending.Store(false)
	return nil
}

// TrySend implements collective.Eager.
func (t *stream) TrySend(to int, b []byte) (bool, error) {
	p := t.peers[to]
	if !p.begun && !t.begin(p, b) {
		return false, t.ending.Cause()
	}
	n, err := p.wireOf(p.sent).tryWrite(p.outHdr[:], b, p.gone)
	if err != nil {
		if t.push != nil && t.from == p {
			p.begun, p.broken = true, true // the Recv that called push will meet the end
			return false, nil
		}
		return false, t.unsendable(p, err)
	}
	p.gone += n
	if p.begun = p.gone < len(p.outHdr)+len(b); p.begun {
		return false, nil
	}
	p.sending.Store(false)
	return true, nil
}

// begin takes the outgoing stream for a frame with message b; false means that Abort has it.
func (t *stream) begin(p *peer, b []byte) bool {
	if !p.sending.CompareAndSwap(false, true) {
		return false
	}
	p.sent++
	p.gone = 0
	h := transport.Header{Op: t.op, Bytes: uint64(len(b)), Number: p.sent}
	if t.checksum {
		h.Sum(b)
	}
	h.Encode(&p.outHdr, frameMagic)
	return true
}

func (t *stream) Recv(from int, b []byte) error {
	p := t.peers[from]
	if t.ending.IsOver() {
		return t.ending.Cause()
	}
	if !p.receiving.CompareAndSwap(false, true) {
		<-t.ending.Over() // lastWords has the stream
		return t.ending.Cause()
	}
	if t.push != nil {
		t.from = p
	}
	err := t.recv(p, b)
	if t.push != nil {
		t.from = nil
	}
	if err == nil {
		p.receiving.Store(false)
	}
	return err
}

func (t *stream) recv(p *peer, b []byte) error {
	// b is filled in the same system call as the header. Should the frame turn out to be another one, then
	// b holds rubbish, as it does after any error.
	p.received++
	w := p.wireOf(p.received)
	n, err := w.read(p.inHdr[:], b, t)
	if err != nil {
		return t.fail(p, fmt.Errorf("%w: %w", collective.ErrPeerLost, transport.Ended(err)))
	}
	h, err := transport.DecodeHeader(&p.inHdr, frameMagic)
	if err != nil {
		return t.fail(p, err)
	}
	if h.Op.Kind == transport.KindGoodbye {
		return t.readGoodbye(p, w, h, b[:n])
	}
	if h.Number != p.received {
		return t.fail(p, fmt.Errorf("%w: message %d came as number %d", transport.ErrCorrupt, p.received, h.Number))
	}
	if h.Op != t.op || h.Bytes != uint64(len(b)) {
		return t.fail(p, &collective.OutOfStepError{Got: h.Op, Want: t.op, GotBytes: h.Bytes, WantBytes: uint64(len(b))})
	}
	if n < len(b) {
		if _, err := w.read(b[n:], nil, t); err != nil {
			return t.fail(p, fmt.Errorf("%w: %w", collective.ErrPeerLost, transport.Ended(err)))
		}
	}
	if t.checksum {
		if err := h.Check(b); err != nil {
			return t.fail(p, err)
		}
	}
	return nil
}

// fail ends the group because of what happened with p, and returns the first cause.
func (t *stream) fail(p *peer, err error) error {
	t.Abort(&collective.PeerError{Rank: p.rank, Op: t.op.Kind.String(), Err: err})
	return t.ending.Cause()
}

func (t *stream) Abort(cause error) {
	first := false
	t.ending.End(cause, func() {
		first = true
		t.end(cause)
	})
	if first && t.ended != nil {
		t.ended(cause)
	}
}

// end tells the peers why, where that is possible at once, and closes the connections.
func (t *stream) end(cause error) {
	var frame []byte
	for _, p := range t.peers {
		if p == nil {
			continue
		}
		if p.sending.CompareAndSwap(false, true) {
			if frame == nil {
				frame = transport.Goodbye(cause, frameMagic)
			}
			_, _ = p.wireOf(p.sent+1).tryWrite(frame, nil, 0) // where the peer looks for the next message
		}
		for i := range p.wires {
			p.wires[i].close()
		}
	}
}

// Close implements collective.Transport. What was sent is with the kernel already, which delivers it.
func (t *stream) Close() error {
	t.Abort(collective.ErrClosed)
	t.watching.Wait()
	return nil
}

// watch looks at the connections until the transport is over.
func (t *stream) watch(cfg Config) {
	ticker := time.NewTicker(max(cfg.Period, time.Millisecond))
	defer ticker.Stop()
	last := time.Now()
	for {
		select {
		case <-t.ending.Over():
			return
		case now := <-ticker.C:
			// A process that was itself stopped accuses nobody: it looks again a period later.
			if late := now.Sub(last) > 2*cfg.Period; !late {
				t.check(cfg.Look)
			}
			last = now
			t.checks.Add(1)
		}
	}
}

func (t *stream) check(look func(fd int) string) {
	for _, p := range t.peers {
		if p == nil {
			continue
		}
		reason := ""
		for i := range p.wires {
			p.wires[i].control(func(fd int) { reason = look(fd) })
			if reason != "" {
				_ = t.fail(p, fmt.Errorf("%w: %s", collective.ErrPeerLost, reason))
				return
			}
		}
	}
}
