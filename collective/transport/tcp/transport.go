package tcp

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"sync"
	"sync/atomic"

	"github.com/farandole-ml/farandole/collective"
)

// ErrCorrupt says that what came from a peer is not what a peer sends: a flipped bit, or a foreign program.
var ErrCorrupt = errors.New("corrupt data")

// errLost is a connection's end without a goodbye.
var errLost = errors.New("connection lost")

// transport is one rank's place in a formed mesh; it has one goroutine, which watches the connections. It implements collective.Transport, Marker and Eager.
type transport struct {
	id       ID
	peers    []*peer // by rank; nil for this one
	checksum bool
	op       collective.Op // written by Mark alone, while no Send and no Recv runs

	watching sync.WaitGroup
	checks   atomic.Int64 // that watch has made

	over chan struct{} // closed by the first Abort
	mu   sync.Mutex    // guards err
	err  error
}

// peer is a connection and the state of its two directions. Each direction has one user at a time.
type peer struct {
	rank    int
	wire    wire
	sending atomic.Bool // the outgoing stream is inside a frame, or belongs to Abort

	sent   uint32
	outHdr [headerBytes]byte
	begun  bool // TrySend left a frame for Send to finish
	gone   int  // bytes of that frame that were sent

	received uint32
	inHdr    [headerBytes]byte
}

func newTransport(id ID, conns []*net.TCPConn, cfg Config) (*transport, error) {
	t := &transport{id: id, peers: make([]*peer, len(conns)), checksum: cfg.Checksum, over: make(chan struct{})}
	for r, c := range conns {
		if r == id.Rank {
			continue
		}
		p := &peer{rank: r}
		if err := p.wire.init(c, cfg.Liveness); err != nil {
			return nil, &collective.PeerError{Rank: r, Op: "connect", Err: err}
		}
		t.peers[r] = p
	}
	if cfg.Liveness > 0 {
		t.watching.Go(func() { t.watch(cfg.Liveness) })
	}
	return t, nil
}

func (t *transport) Rank() int  { return t.id.Rank }
func (t *transport) World() int { return len(t.peers) }

// Mark implements collective.Marker.
func (t *transport) Mark(op collective.Op) { t.op = op }

func (t *transport) Send(to int, b []byte) error {
	p := t.peers[to]
	if !p.begun && !t.begin(p, b) {
		return t.cause()
	}
	p.begun = false
	if err := p.wire.write(p.outHdr[:], b, p.gone); err != nil {
		return t.fail(p, fmt.Errorf("%w: %w", errLost, err))
	}
	p.sending.Store(false)
	return nil
}

// TrySend implements collective.Eager.
func (t *transport) TrySend(to int, b []byte) (bool, error) {
	p := t.peers[to]
	if !t.begin(p, b) {
		return false, t.cause()
	}
	n, err := p.wire.tryWrite(p.outHdr[:], b)
	if err != nil {
		return false, t.fail(p, fmt.Errorf("%w: %w", errLost, err))
	}
	if n < len(p.outHdr)+len(b) {
		p.begun, p.gone = true, n
		return false, nil
	}
	p.sending.Store(false)
	return true, nil
}

// begin takes the outgoing stream for a frame with message b; false means that Abort has it.
func (t *transport) begin(p *peer, b []byte) bool {
	if !p.sending.CompareAndSwap(false, true) {
		return false
	}
	p.sent++
	p.gone = 0
	h := header{op: t.op, bytes: uint64(len(b)), number: p.sent}
	if t.checksum {
		h.flags |= flagChecksum
		h.checksum = crc32.Checksum(b, castagnoli)
	}
	h.encode(&p.outHdr)
	return true
}

func (t *transport) Recv(from int, b []byte) error {
	p := t.peers[from]
	select {
	case <-t.over:
		return t.cause()
	default:
	}
	// b is filled in the same system call as the header. Should the frame turn out to be another one, then
	// b holds rubbish, as it does after any error.
	n, err := p.wire.read(p.inHdr[:], b)
	if err != nil {
		return t.fail(p, fmt.Errorf("%w: %w", errLost, ended(err)))
	}
	p.received++
	h, err := decodeHeader(&p.inHdr)
	if err != nil {
		return t.fail(p, err)
	}
	if h.op.Kind == kindGoodbye {
		return t.goodbye(p, h, b[:n])
	}
	if h.number != p.received {
		return t.fail(p, fmt.Errorf("%w: message %d came as number %d", ErrCorrupt, p.received, h.number))
	}
	if h.op != t.op || h.bytes != uint64(len(b)) {
		return t.fail(p, &collective.OutOfStepError{Got: h.op, Want: t.op, GotBytes: h.bytes, WantBytes: uint64(len(b))})
	}
	if n < len(b) {
		if _, err := p.wire.read(b[n:], nil); err != nil {
			return t.fail(p, fmt.Errorf("%w: %w", errLost, ended(err)))
		}
	}
	if t.checksum && h.checksum != crc32.Checksum(b, castagnoli) {
		return t.fail(p, fmt.Errorf("%w: checksum of message %d", ErrCorrupt, h.number))
	}
	return nil
}

// ended makes an end of file say what it means here.
func ended(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("closed by the peer")
	}
	return err
}

func (t *transport) cause() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.err
}

// fail ends the group because of what happened with p, and returns the first cause.
func (t *transport) fail(p *peer, err error) error {
	t.Abort(&collective.PeerError{Rank: p.rank, Op: t.op.Kind.String(), Err: err})
	return t.cause()
}

func (t *transport) Abort(cause error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.err != nil {
		return
	}
	t.err = cause
	close(t.over)
	var frame []byte
	for _, p := range t.peers {
		if p == nil {
			continue
		}
		if p.sending.CompareAndSwap(false, true) {
			if frame == nil {
				frame = farewell(cause)
			}
			_, _ = p.wire.tryWrite(frame, nil)
		}
		p.wire.close()
	}
}

// Close implements collective.Transport. What was sent is with the kernel already, which delivers it.
func (t *transport) Close() error {
	t.Abort(collective.ErrClosed)
	t.watching.Wait()
	return nil
}
