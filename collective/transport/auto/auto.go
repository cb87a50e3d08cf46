// Package auto connects the ranks of one generation, each pair by the best path that there is between them: shared memory
// between ranks that share a host, unix sockets where that cannot be had, and TCP between hosts. It also has
// the way to every other transport by its name, for those who know better: gRPC where only HTTP/2 passes, libfabric.
package auto

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/farandole-ml/farandole/collective"
	"github.com/farandole-ml/farandole/collective/transport"
	"github.com/farandole-ml/farandole/collective/transport/fabric"
	"github.com/farandole-ml/farandole/collective/transport/grpc"
	"github.com/farandole-ml/farandole/collective/transport/mesh"
	"github.com/farandole-ml/farandole/collective/transport/shm"
	"github.com/farandole-ml/farandole/collective/transport/tcp"
	"github.com/farandole-ml/farandole/elastic"
)

// Config has a Listener's settings. The zero value works.
type Config struct {
	// Job is the only job whose connections are accepted. Empty means that of the first Connect.
	Job string

	// Host names what ranks must have in common to use this host's memory and sockets. Empty means what the system says:
	// the running kernel, the network namespace and the user. Tests make several hosts of one by it.
	Host string

	// Path is the one path to use: Any, or another by name. Connect fails where it does not lead.
	// It must be equal on all ranks.
	Path Path

	// Liveness and Streams are tcp.Config's, for connections between hosts.
	Liveness time.Duration
	Streams  int

	// Checksum protects every message by a CRC-32C; shared memory has no messages. It must be equal on all ranks.
	Checksum bool

	// Logger gets which path was taken at level Debug, and why another one had to be at level Warn. Nil means slog.Default().
	Logger *slog.Logger
}

// Path is a way between ranks.
type Path string

// The paths.
const (
	Any    Path = "auto"
	Shared Path = "shm"
	Unix   Path = "uds"
	TCP    Path = "tcp"
	GRPC   Path = "grpc"
	Fabric Path = "fabric" // in builds with the tag fabric
)

// Paths are all of them.
var Paths = []Path{Any, Shared, Unix, TCP, GRPC, Fabric}

// ParsePath reads a path's name; the empty one is Any.
func ParsePath(s string) (Path, error) {
	if s == "" {
		return Any, nil
	}
	if !slices.Contains(Paths, Path(s)) {
		return "", fmt.Errorf("transport %q is not known: use auto, shm, uds, tcp, grpc or fabric", s)
	}
	return Path(s), nil
}

// ErrNoPath says that the path that Config asks for does not lead to every rank.
var ErrNoPath = errors.New("no such path to every rank")

// Listener accepts the peers of one process, for one generation after the other. Its methods may be called from any
// goroutine.
type Listener struct {
	cfg    Config
	addr   address
	stream *mesh.Listener
	shared *shm.Listener // nil where there is none
	other  listener      // instead of both; nil for the paths of this package

	lost sync.Once // shared memory was given up, and that was said
}

// listener is what all transports' listeners have.
type listener interface {
	Addr() string
	Connect(ctx context.Context, id transport.ID, addrs []string) (collective.Transport, error)
	Fence(gen elastic.Generation)
	Close() error
}

// Listen starts accepting on addr, a TCP address such as 127.0.0.1:0, and where the system has them on sockets and memory
// of this host. The caller must Close the Listener.
func Listen(addr string, cfg Config) (*Listener, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	var err error
	if cfg.Path, err = ParsePath(string(cfg.Path)); err != nil {
		return nil, fmt.Errorf("auto: %w", err)
	}
	switch cfg.Path {
	case GRPC:
		l, err := grpc.Listen(addr, grpc.Config{Job: cfg.Job, Liveness: cfg.Liveness, Checksum: cfg.Checksum, Logger: cfg.Logger})
		if err != nil {
			return nil, err
		}
		return &Listener{cfg: cfg, other: l}, nil
	case Fabric:
		l, err := fabric.Listen(addr, fabric.Config{Job: cfg.Job, Liveness: cfg.Liveness, Logger: cfg.Logger})
		if err != nil {
			return nil, err
		}
		return &Listener{cfg: cfg, other: l}, nil
	}
	if cfg.Host == "" && cfg.Path != TCP {
		cfg.Host = hostID()
	}
	m := mesh.Config{Job: cfg.Job, Streams: cfg.Streams, FlagNames: []string{"message checksums"}, Logger: cfg.Logger}
	if cfg.Checksum {
		m.Flags = 1
	}
	n := newNetwork(cfg)
	stream, err := mesh.Listen(n, addr, m)
	if err != nil {
		return nil, err
	}
	l := &Listener{cfg: cfg, stream: stream, addr: n.own}
	if cfg.Path == Any || cfg.Path == Shared {
		if l.shared, err = shm.Listen("", shm.Config{Job: cfg.Job, Logger: cfg.Logger}); err != nil {
			if cfg.Path == Shared {
				return nil, errors.Join(err, stream.Close())
			}
			cfg.Logger.Warn("no shared memory between workers", "err", err)
		} else {
			l.addr.shared = l.shared.Addr()
		}
	}
	return l, nil
}

// Addr says all ways in which this process can be reached.
func (l *Listener) Addr() string {
	if l.other != nil {
		return l.other.Addr()
	}
	return l.addr.String()
}

// Connect forms the group of id.Generation; addrs are what the ranks' Addr gave, by rank. It fails as mesh.Listener.Connect does,
// and with ErrNoPath. The caller owns the transport.
func (l *Listener) Connect(ctx context.Context, id transport.ID, addrs []string) (collective.Transport, error) {
	if l.other != nil {
		return l.other.Connect(ctx, id, addrs)
	}
	ways := make([]address, len(addrs))
	hosts := make([]string, len(addrs))
	for r, a := range addrs {
		var err error
		if ways[r], err = parseAddress(a); err != nil {
			return nil, fmt.Errorf("auto: rank %d: %w", r, err)
		}
		if hosts[r] = ways[r].host; hosts[r] == "" {
			hosts[r] = ways[r].tcp // nothing is known of it: it shares its host with nobody
		}
	}
	if err := l.leads(ways); err != nil {
		return nil, err
	}
	if l.shared != nil && oneMemory(ways) {
		names := make([]string, len(ways))
		for r, w := range ways {
			names[r] = w.shared
		}
		t, err := l.shared.Connect(ctx, id, names)
		if err == nil || l.cfg.Path == Shared || !errors.Is(err, collective.ErrNoMemory) {
			return t, err
		}
		l.doWithout(err)
		return l.overStreams(ctx, id, addrs, hosts, nil)
	}
	near, here, err := l.connectHere(ctx, id, ways)
	if err != nil {
		return nil, err
	}
	far, err := l.overStreams(ctx, id, addrs, hosts, near)
	if err != nil {
		if near != nil {
			near.Abort(err)
			err = errors.Join(err, near.Close())
		}
		return nil, err
	}
	if near == nil {
		return far, nil
	}
	return join(far, near, here), nil
}

// doWithout says why shared memory is given up. All ranks of a host get such an error or none.
func (l *Listener) doWithout(err error) {
	l.lost.Do(func() { l.cfg.Logger.Warn("no shared memory between workers: using unix sockets", "err", err) })
}

// connectHere connects the ranks on this host, if they are several and the memory can be had, through shared memory. The
// transport is nil otherwise, and owned by the caller.
func (l *Listener) connectHere(ctx context.Context, id transport.ID, ways []address) (collective.Transport, []int, error) {
	if l.shared == nil || id.Rank < 0 || id.Rank >= len(ways) {
		return nil, nil, nil
	}
	own := ways[id.Rank]
	var here []int
	var names []string
	place := -1
	for r, w := range ways {
		if w.host == "" || w.host != own.host {
			continue
		}
		if w.shared == "" {
			return nil, nil, nil // that rank finds the same
		}
		if r == id.Rank {
			place = len(here)
		}
		here, names = append(here, r), append(names, w.shared)
	}
	if len(here) < 2 {
		return nil, nil, nil
	}
	near, err := l.shared.ConnectPart(ctx, transport.ID{Job: id.Job, Generation: id.Generation, Rank: place}, names, here, len(ways))
	if errors.Is(err, collective.ErrNoMemory) {
		l.doWithout(err)
		return nil, nil, nil
	}
	return near, here, err
}

// overStreams connects all ranks. What ends that aborts near, which may be nil.
func (l *Listener) overStreams(ctx context.Context, id transport.ID, addrs, hosts []string, near collective.Transport) (collective.Transport, error) {
	conns, err := l.stream.Connect(ctx, id, addrs)
	if err != nil {
		return nil, err
	}
	var ended func(error)
	if near != nil {
		ended = near.Abort
	}
	return tcp.Carry(id, conns, hosts, ended, tcp.Config{Liveness: l.liveness(), Checksum: l.cfg.Checksum, Logger: l.cfg.Logger})
}

// liveness is what tcp.Listen would make of the setting.
func (l *Listener) liveness() time.Duration {
	if l.cfg.Liveness == 0 {
		return time.Second
	}
	return l.cfg.Liveness
}

// leads checks that the path which was asked for leads to every rank.
func (l *Listener) leads(ways []address) error {
	for r, w := range ways {
		here := w.host != "" && w.host == l.cfg.Host
		if l.cfg.Path == Shared && (!here || w.shared == "") || l.cfg.Path == Unix && (!here || w.unix == "") {
			return fmt.Errorf("auto: %w: %s does not lead to rank %d at %s, which is on another host or does without", ErrNoPath, l.cfg.Path, r, w.tcp)
		}
	}
	return nil
}

// oneMemory says that all ranks are several and can share memory.
func oneMemory(ways []address) bool {
	for _, w := range ways {
		if w.host == "" || w.host != ways[0].host || w.shared == "" {
			return false
		}
	}
	return len(ways) > 1
}

// Fence refuses every generation lower than gen from now on: see mesh.Listener.Fence.
func (l *Listener) Fence(gen elastic.Generation) {
	if l.other != nil {
		l.other.Fence(gen)
		return
	}
	l.stream.Fence(gen)
	if l.shared != nil {
		l.shared.Fence(gen)
	}
}

// Close stops accepting and ends what is in formation. Groups that stand are not touched.
func (l *Listener) Close() error {
	if l.other != nil {
		return l.other.Close()
	}
	err := l.stream.Close()
	if l.shared != nil {
		err = errors.Join(err, l.shared.Close())
	}
	return err
}
