// Package mesh connects the ranks of one generation with one another by stream connections: a full mesh, with a
// handshake on every connection that proves that both sides mean the same job, generation, world size, pair of ranks and
// settings. What the connections are then used for is the caller's business.
//
// A process has one Listener for its life. Connect forms the mesh of one generation: a rank dials the lower ranks and
// accepts the higher ones. Connections of a generation that this process has not heard of yet wait until
// Connect is called for it. See docs/protocol.md, "Data plane".
package mesh

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/farandole-ml/farandole/elastic"
)

// Network is a kind of connection. Its methods may be called from any goroutine.
type Network interface {
	// Name is the prefix of errors: "tcp".
	Name() string
	Listen(addr string) (net.Listener, error)
	Dial(ctx context.Context, addr string) (net.Conn, error)
	// Trust says why whoever is at the other end of a new connection, accepted or dialled, must not take part, before anything
	// is read from it.
	Trust(c net.Conn) error
}

// ErrUntrusted is for errors of Network.Trust that will not go away by trying again.
var ErrUntrusted = errors.New("untrusted peer")

// Config has a Listener's settings. The zero value works.
type Config struct {
	// Job is the only job whose connections are accepted. Empty means that of the first Connect.
	Job string

	Admission

	// Streams is how many connections a pair of ranks should have, at most MaxStreams. A pair gets the smaller of its
	// sides' numbers. Zero means 1.
	Streams int

	// Flags are bits that must be equal on all ranks; FlagNames has a name for each, for the message of a refusal.
	Flags     uint32
	FlagNames []string

	// Logger gets refused and displaced connections at level Debug. Nil means slog.Default().
	Logger *slog.Logger
}

// MaxStreams bounds Config.Streams.
const MaxStreams = 16

func (c Config) withDefaults() Config {
	c.Admission = c.Admission.WithDefaults()
	c.Streams = min(max(c.Streams, 1), MaxStreams)
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return c
}

// Listener accepts the data connections of one process, for one generation after the other.
// Its methods may be called from any goroutine.
type Listener struct {
	network  Network
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

// Listen starts accepting on addr, in the network's notation. The caller must Close the Listener.
func Listen(network Network, addr string, cfg Config) (*Listener, error) {
	socket, err := network.Listen(addr)
	if err != nil {
		return nil, fmt.Errorf("%s: data plane: %w", network.Name(), err)
	}
	cfg = cfg.withDefaults()
	l := &Listener{
		network: network, cfg: cfg, socket: socket, job: cfg.Job,
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
			l.handlers.Go(func() { l.handle(c) })
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
