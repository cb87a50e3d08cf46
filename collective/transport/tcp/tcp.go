// Package tcp connects the ranks of one generation by a full mesh of TCP connections.
//
// A process has one Listener for its life. Connect forms the mesh of one generation: a rank dials the lower ranks and
// accepts the higher ones; a handshake on every connection proves that both sides mean the same job, generation,
// world size and pair of ranks. Connections of a generation that this process has not heard of yet wait until
// Connect is called for it. See docs/protocol.md, "Data plane".
package tcp

import (
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	names "github.com/farandole-ml/farandole/collective/transport"
	"github.com/farandole-ml/farandole/elastic"
)

// Config has a Listener's settings. The zero value works.
type Config struct {
	// Job is the only job whose connections are accepted. Empty means that of the first Connect.
	Job string

	// Liveness is how long a peer's host may leave sent data or probes unacknowledged before its connection is
	// given up. It catches cut links and dead hosts, not a process that is frozen or busy. Longer tolerates worse
	// networks; shorter finds a cut earlier. Zero means 1 s; negative means the kernel's limit, about 15 minutes.
	Liveness time.Duration

	// HandshakeTimeout is how long a new connection may take for each message of the handshake. Zero means 2 s.
	HandshakeTimeout time.Duration

	// ParkTimeout is how long an early connection waits here for Connect to be called for its generation; then the
	// dialer is told to try again. Zero means 10 s.
	ParkTimeout time.Duration

	// MaxParked bounds the early connections. Zero means 1024.
	MaxParked int

	// MaxPending bounds the connections in handshake; a further one displaces the oldest, so that clients which
	// connect and say nothing cannot keep a peer out. Zero means 128.
	MaxPending int

	// Checksum protects every message by a CRC-32C, verified on receipt. TCP's own 16-bit sum misses about one in
	// 65,536 corruptions that the network lets through. It must be equal on all ranks.
	Checksum bool

	// Logger gets refused and displaced connections at level Debug. Nil means slog.Default().
	Logger *slog.Logger
}

func (c Config) withDefaults() Config {
	if c.Liveness == 0 {
		c.Liveness = time.Second
	}
	if c.HandshakeTimeout <= 0 {
		c.HandshakeTimeout = 2 * time.Second
	}
	if c.ParkTimeout <= 0 {
		c.ParkTimeout = 10 * time.Second
	}
	if c.MaxParked <= 0 {
		c.MaxParked = 1024
	}
	if c.MaxPending <= 0 {
		c.MaxPending = 128
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return c
}

// ID says which place in which group a Connect asks for.
type ID = names.ID

// Listener accepts the data connections of one process, for one generation after the other.
// Its methods may be called from any goroutine.
type Listener struct {
	cfg      Config
	socket   net.Listener
	handlers sync.WaitGroup

	mu      sync.Mutex
	closed  bool
	job     string
	fence   elastic.Generation // lower ones are refused
	forming map[elastic.Generation]*forming
	formed  elastic.Generation // the highest that formed here
	changed chan struct{}      // closed and replaced when anything above changes
	pending []net.Conn         // in handshake, oldest first
	parked  int
}

// Listen starts accepting on addr (host:port; port 0 picks one). The caller must Close the Listener.
func Listen(addr string, cfg Config) (*Listener, error) {
	socket, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("tcp: data plane: %w", err)
	}
	cfg = cfg.withDefaults()
	l := &Listener{
		cfg: cfg, socket: socket, job: cfg.Job,
		forming: make(map[elastic.Generation]*forming),
		changed: make(chan struct{}),
	}
	l.handlers.Go(l.accept)
	return l, nil
}

// Addr is the address that was bound.
func (l *Listener) Addr() string { return l.socket.Addr().String() }

// Fence refuses every generation lower than gen from now on: those in formation end with
// collective.ErrGenerationChanged, early connections are closed. Groups that stand are not touched.
func (l *Listener) Fence(gen elastic.Generation) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fence = max(l.fence, gen)
	for g, f := range l.forming {
		if g < l.fence {
			f.cancel(staleError(g, l.fence))
		}
	}
	l.announce()
}

// Close stops accepting and ends what is in formation. Groups that stand are not touched.
func (l *Listener) Close() error {
	l.mu.Lock()
	l.closed = true
	for _, f := range l.forming {
		f.cancel(net.ErrClosed)
	}
	for _, c := range l.pending {
		c.Close()
	}
	l.announce()
	l.mu.Unlock()
	err := l.socket.Close()
	l.handlers.Wait()
	return err
}

// announce makes waiting connections look again. The caller holds mu.
func (l *Listener) announce() {
	close(l.changed)
	l.changed = make(chan struct{})
}

// accept runs until the socket is closed.
func (l *Listener) accept() {
	const pause = 10 * time.Millisecond // after an error such as "too many open files"
	for {
		c, err := l.socket.Accept()
		if err == nil {
			l.handlers.Go(func() { l.handle(c.(*net.TCPConn)) })
			continue
		}
		l.mu.Lock()
		closed, changed := l.closed, l.changed
		l.mu.Unlock()
		if closed {
			return
		}
		l.cfg.Logger.Warn("data plane cannot accept", "err", err)
		select {
		case <-time.After(pause):
		case <-changed:
		}
	}
}
