// Package tcp connects the ranks of one generation by a full mesh of TCP connections. See docs/protocol.md, "Data
// plane".
package tcp

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/farandole-ml/farandole/collective"
	"github.com/farandole-ml/farandole/collective/transport"
	"github.com/farandole-ml/farandole/collective/transport/mesh"
	"github.com/farandole-ml/farandole/collective/transport/stream"
)

// Config has a Listener's settings. The zero value works.
type Config struct {
	// Job is the only job whose connections are accepted. Empty means that of the first Connect.
	Job string

	// Liveness is how long a peer's host may leave sent data or probes unacknowledged before its connection is
	// given up. It catches cut links and dead hosts, not a process that is frozen or busy. Longer tolerates worse
	// networks; shorter finds a cut earlier. Zero means 1 s; negative means the kernel's limit, about 15 minutes.
	Liveness time.Duration

	// Streams is how many connections a pair of ranks has, at most 16; messages take turns on them. A pair uses the
	// smaller of its sides' numbers. More may use a network better that limits each connection, by its window or by
	// the path that it is given; fewer need less memory in the kernel. Zero means 1.
	Streams int

	mesh.Admission

	// Checksum protects every message by a CRC-32C, verified on receipt. TCP's own 16-bit sum misses about one in
	// 65,536 corruptions that the network lets through. It must be equal on all ranks.
	Checksum bool

	// Logger gets refused and displaced connections at level Debug. Nil means slog.Default().
	Logger *slog.Logger
}

// ID says which place in which group a Connect asks for.
type ID = transport.ID

// Listener accepts the data connections of one process, for one generation after the other.
// Its methods may be called from any goroutine.
type Listener struct {
	*mesh.Listener
	cfg Config
}

// Listen starts accepting on addr (host:port; port 0 picks one). The caller must Close the Listener.
func Listen(addr string, cfg Config) (*Listener, error) {
	if cfg.Liveness == 0 {
		cfg.Liveness = time.Second
	}
	m := mesh.Config{
		Job: cfg.Job, Admission: cfg.Admission, Streams: cfg.Streams, FlagNames: []string{"message checksums"}, Logger: cfg.Logger,
	}
	if cfg.Checksum {
		m.Flags = 1
	}
	l, err := mesh.Listen(network{}, addr, m)
	if err != nil {
		return nil, err
	}
	return &Listener{l, cfg}, nil
}

// Connect forms the group of id.Generation: see mesh.Listener.Connect. The caller owns the transport.
func (l *Listener) Connect(ctx context.Context, id ID, addrs []string) (collective.Transport, error) {
	conns, err := l.Listener.Connect(ctx, id, addrs)
	if err != nil {
		return nil, err
	}
	t, err := Carry(id, conns, nil, nil, l.cfg)
	if err != nil {
		return nil, fmt.Errorf("tcp: generation %d: %w", id.Generation, err)
	}
	return t, nil
}

// Carry makes a transport of the connections of a formed mesh, which it owns. Those over TCP are tuned as cfg says, others
// are used as they are. hosts and ended are stream.Config's.
func Carry(id transport.ID, conns [][]net.Conn, hosts []string, ended func(cause error), cfg Config) (collective.Transport, error) {
	here := 1
	for r, group := range conns {
		for i, c := range group {
			tc, ok := c.(*net.TCPConn)
			local := !ok || transport.SameHost(c)
			if ok {
				if err := tune(tc, cfg.Liveness, local); err != nil {
					cfg.logger().Warn("data connection cannot be tuned", "rank", r, "gen", id.Generation, "err", err)
				}
			}
			if i == 0 && local {
				here++
			}
		}
	}
	s := cfg.stream(here)
	s.Hosts, s.Ended = hosts, ended
	return stream.New(id, conns, s)
}

// Network is TCP for package mesh. Addresses are host:port.
func Network() mesh.Network { return network{} }

func (c *Config) logger() *slog.Logger {
	if c.Logger == nil {
		return slog.Default()
	}
	return c.Logger
}

func (c *Config) stream(here int) stream.Config {
	s := stream.Config{Checksum: c.Checksum, Here: here}
	if c.Liveness > 0 {
		s.Period = c.Liveness / checksPerLiveness
		s.Look = newLook(c.Liveness)
	}
	return s
}

// checksPerLiveness is how often in a Liveness connections are looked at.
const checksPerLiveness = 4

type network struct{}

func (network) Name() string { return "tcp" }

func (network) Listen(addr string) (net.Listener, error) { return net.Listen("tcp", addr) }

func (network) Dial(ctx context.Context, addr string) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "tcp", addr)
}

// Trust trusts everybody: the port must be reachable by the job's hosts only.
func (network) Trust(net.Conn) error { return nil }
