// Package uds connects the ranks of one generation that share a host by a full mesh of unix stream sockets: the same
// handshake and frames as package tcp, over connections that cost less. Only processes of the same user may take part.
package uds

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/farandole-ml/farandole/collective"
	"github.com/farandole-ml/farandole/collective/transport"
	"github.com/farandole-ml/farandole/collective/transport/mesh"
	"github.com/farandole-ml/farandole/collective/transport/stream"
)

// Config has a Listener's settings. The zero value works.
type Config struct {
	// Job is the only job whose connections are accepted. Empty means that of the first Connect.
	Job string

	// BufferBytes is how much the kernel may hold of what was sent and not received yet, for each connection and
	// direction. Larger lets a rank send ahead further; smaller stays in the processor's cache. The kernel's own limit
	// (net.core.wmem_max) may make it less. Zero means 1 MiB.
	BufferBytes int

	mesh.Admission

	// Checksum protects every message by a CRC-32C, verified on receipt. It must be equal on all ranks. Nothing
	// but memory is between the ranks: it is for finding faults of memory or of programs.
	Checksum bool

	// Logger gets refused and displaced connections at level Debug. Nil means slog.Default().
	Logger *slog.Logger
}

// defaultBuffer is BufferBytes when it is zero.
const defaultBuffer = 1 << 20

// Listener accepts the data connections of one process, for one generation after the other.
// Its methods may be called from any goroutine.
type Listener struct {
	*mesh.Listener
	cfg Config
}

// Listen starts accepting on addr: a path of at most 107 bytes, a name in the kernel's abstract name space when it
// begins with "@" (Linux), or, when it is empty, an abstract name that the kernel picks. A path must not exist; Close
// removes it. The caller must Close the Listener.
func Listen(addr string, cfg Config) (*Listener, error) {
	if cfg.BufferBytes <= 0 {
		cfg.BufferBytes = defaultBuffer
	}
	m := mesh.Config{
		Job: cfg.Job, Admission: cfg.Admission, FlagNames: []string{"message checksums"}, Logger: cfg.Logger,
	}
	if cfg.Checksum {
		m.Flags = 1
	}
	l, err := mesh.Listen(Network("uds", cfg.BufferBytes), addr, m)
	if err != nil {
		return nil, err
	}
	return &Listener{l, cfg}, nil
}

// Connect forms the group of id.Generation: see mesh.Listener.Connect. The caller owns the transport.
func (l *Listener) Connect(ctx context.Context, id transport.ID, addrs []string) (collective.Transport, error) {
	conns, err := l.Listener.Connect(ctx, id, addrs)
	if err != nil {
		return nil, err
	}
	t, err := stream.New(id, conns, stream.Config{Checksum: l.cfg.Checksum, Here: len(addrs)})
	if err != nil {
		return nil, fmt.Errorf("uds: generation %d: %w", id.Generation, err)
	}
	return t, nil
}
