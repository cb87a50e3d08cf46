// Package grpc connects the ranks of one generation over HTTP/2, for networks where nothing else passes. Between two
// ranks there is one gRPC stream, alone on its connection, opened by the higher rank.
//
// A process has one Listener for its life. Connect forms the mesh of one generation; package mesh has the handshake, which
// runs inside the streams. Nothing here encrypts or authenticates: the port must be reachable by the job's hosts only.
package grpc

import (
	"context"
	"log/slog"
	"time"

	"github.com/farandole-ml/farandole/collective"
	"github.com/farandole-ml/farandole/collective/transport"
	"github.com/farandole-ml/farandole/collective/transport/mesh"
)

// Config has a Listener's settings. The zero value works.
type Config struct {
	// Job is the only job whose connections are accepted. Empty means that of the first Connect.
	Job string

	// Liveness is how often a connection on which nothing comes is probed, and how long a probe may go unanswered before
	// the connection is given up. It catches cut links and dead hosts, and also, unlike tcp's, a process that
	// is frozen: HTTP/2 pings are answered by the process. Zero means 10 s, which is also gRPC's least; negative means never.
	Liveness time.Duration

	mesh.Admission

	// Checksum protects every message by a CRC-32C, verified on receipt. It must be equal on all ranks.
	Checksum bool

	// Logger gets refused and displaced connections at level Debug. Nil means slog.Default().
	Logger *slog.Logger
}

func (c Config) withDefaults() Config {
	if c.Liveness == 0 {
		c.Liveness = leastLiveness
	}
	if c.Liveness > 0 {
		c.Liveness = max(c.Liveness, leastLiveness)
	}
	c.Admission = c.Admission.WithDefaults()
	return c
}

// flagsChecksum is the handshake's bit for Config.Checksum.
const flagsChecksum = 1

func (c Config) mesh() mesh.Config {
	m := mesh.Config{
		Job: c.Job, Admission: c.Admission, FlagNames: []string{"message checksums"}, Logger: c.Logger,
	}
	if c.Checksum {
		m.Flags = flagsChecksum
	}
	return m
}

// Listener accepts the data connections of one process, for one generation after the other.
// Its methods may be called from any goroutine.
type Listener struct {
	*mesh.Listener
	cfg Config
}

// Listen starts accepting on addr (host:port; port 0 picks one). The caller must Close the Listener.
func Listen(addr string, cfg Config) (*Listener, error) {
	cfg = cfg.withDefaults()
	m, err := mesh.Listen(network{cfg}, addr, cfg.mesh())
	if err != nil {
		return nil, err
	}
	return &Listener{m, cfg}, nil
}

// Connect forms the group of id.Generation: see mesh.Listener.Connect. The caller owns the transport.
func (l *Listener) Connect(ctx context.Context, id transport.ID, addrs []string) (collective.Transport, error) {
	conns, err := l.Listener.Connect(ctx, id, addrs)
	if err != nil {
		return nil, err
	}
	links := make([]*link, len(conns))
	for r, c := range conns {
		if len(c) == 1 {
			links[r] = c[0].(*link)
		}
	}
	return newGroup(id, links, l.cfg.Checksum), nil
}
