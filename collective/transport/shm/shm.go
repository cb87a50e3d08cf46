//go:build linux

// Package shm connects the ranks of one generation that share a host through memory that all of them have mapped.
//
// Every rank makes one segment of shared memory and passes it to the others over unix sockets, which stay open: they tell at once
// that a process has ended. Messages go through rings in the segments. The operations of a group need no messages: ranks publish what
// they have and meet (collective.SharedMemory); arrays in registered memory (collective.Allocator) are read and
// written where they are, others go through the segments in pieces that stay in the caches.
//
// The ranks must be processes of one user, which trust one another not to write into each other's results; but nothing that a
// broken peer leaves in shared memory or sends makes this process touch memory that is not there.
package shm

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"runtime"

	"golang.org/x/sync/errgroup"

	"github.com/farandole-ml/farandole/collective"
	"github.com/farandole-ml/farandole/collective/transport"
	"github.com/farandole-ml/farandole/collective/transport/mesh"
	"github.com/farandole-ml/farandole/collective/transport/uds"
)

// Config has a Listener's settings. The zero value works.
type Config struct {
	// Job is the only job whose connections are accepted. Empty means that of the first Connect.
	Job string

	mesh.Admission

	// StageBytes is how much of an array that is not registered goes through shared memory for one meeting of the ranks, at
	// least 4 KiB. Larger means fewer meetings; smaller keeps what all ranks stage in the caches. A rank's segment is three times as large, and has the
	// rings of messages. It must be equal on all ranks. Zero means 480 KiB.
	StageBytes int

	// Logger gets refused connections at level Debug, and what shared memory could not be had at level Warn. Nil means slog.Default().
	Logger *slog.Logger
}

// socketBytes is the buffer of a socket: notes are short.
const socketBytes = 64 << 10

// flagShared tells peers of another transport apart in the handshake.
const flagShared = 1 << 8

// Listener accepts the peers of one process, for one generation after the other. Its methods may be called from any
// goroutine. Registered memory belongs to it and not to a group: see Alloc.
type Listener struct {
	*mesh.Listener
	stageBytes int
	arena      *arena
	log        *slog.Logger
}

// minStageBytes bounds Config.StageBytes from below. A staged block has a cache line for every rank.
const minStageBytes = 4 << 10

// Listen starts accepting on addr: a path of at most 107 bytes, a name in the kernel's abstract name space when it
// begins with "@", or, when it is empty, an abstract name that the kernel picks. A path must not exist; Close
// removes it. The caller must Close the Listener.
func Listen(addr string, cfg Config) (*Listener, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.StageBytes == 0 {
		cfg.StageBytes = defaultStageBytes
	}
	if cfg.StageBytes < minStageBytes {
		return nil, fmt.Errorf("shm: a stage of %d bytes: at least %d are needed", cfg.StageBytes, minStageBytes)
	}
	l, err := mesh.Listen(uds.Network("shm", socketBytes), addr, mesh.Config{
		Job: cfg.Job, Admission: cfg.Admission, Flags: flagShared, Logger: cfg.Logger,
	})
	if err != nil {
		return nil, err
	}
	return &Listener{l, cfg.StageBytes, &arena{}, cfg.Logger}, nil
}

// Connect forms the group of id.Generation: see mesh.Listener.Connect. Beside its errors it is collective.ErrNoMemory when
// this rank or a peer cannot have a segment. It succeeds on all ranks or, but for a failure in its last moment, on none.
// The caller owns the transport.
func (l *Listener) Connect(ctx context.Context, id transport.ID, addrs []string) (collective.Transport, error) {
	return l.connect(ctx, id, addrs, names{total: len(addrs)})
}

func (l *Listener) connect(ctx context.Context, id transport.ID, addrs []string, n names) (collective.Transport, error) {
	if most := min(maxWorld, l.stageBytes/lineBytes); len(addrs) > most {
		return nil, fmt.Errorf("shm: connect: a world of %d: at most %d ranks share a host with a stage of %d bytes", len(addrs), most, l.stageBytes)
	}
	conns, err := l.Listener.Connect(ctx, id, addrs)
	if err != nil {
		return nil, n.rename(id.Generation, err)
	}
	t, err := l.assemble(ctx, id, conns, n)
	if err != nil {
		return nil, fmt.Errorf("shm: generation %d: %w", id.Generation, err)
	}
	return t, nil
}

// assemble makes a member of the connections, which it owns.
func (l *Listener) assemble(ctx context.Context, id transport.ID, conns [][]net.Conn, n names) (*member, error) {
	t := &member{
		id: id, names: n, arena: l.arena, log: l.log, peers: make([]*peer, len(conns)),
		stageBytes: l.stageBytes / lineBytes * lineBytes,
		spins:      spins,
		over:       make(chan struct{}), released: make(chan struct{}),
	}
	if len(conns) > runtime.NumCPU() {
		t.spins = crowdedSpins
	}
	t.registry.own.Store(new([]*registration))
	for r, c := range conns {
		if r != id.Rank {
			t.peers[r] = &peer{rank: r, link: link{conn: c[0].(*net.UnixConn)}}
			t.peers[r].buffers.Store(new([]foreign))
			if pid, err := t.peers[r].link.process(); err == nil && pid == os.Getpid() {
				t.together = true
			}
		}
	}
	if err := t.exchange(ctx); err != nil {
		t.discard(err)
		return nil, err
	}
	t.start()
	return t, nil
}

func (t *member) memoryName(what string) string {
	return fmt.Sprintf("farandole-%s-%d-%s", t.id.Job[:min(len(t.id.Job), 64)], t.id.Generation, what)
}

// exchange gives every peer this rank's segment and maps theirs. It returns when all ranks have mapped all.
func (t *member) exchange(ctx context.Context) error {
	world := len(t.peers)
	size := segmentBytes(world, t.stageBytes)
	file, mem, err := createMemory(t.memoryName("segment"), size)
	if err != nil {
		return fmt.Errorf("a segment of %d bytes: %w", size, err)
	}
	defer file.Close()
	t.own = &segment{mem: mem}
	layOut(t.own, world, t.stageBytes)
	stop := context.AfterFunc(ctx, func() { t.hangUp(context.Cause(ctx)) })
	defer stop()
	for _, step := range []func(p *peer) error{
		func(p *peer) error {
			if err := p.link.send(note{kind: noteSegment, size: uint64(size)}, file); err != nil {
				return err
			}
			return t.receiveSegment(p)
		},
		func(p *peer) error {
			if err := p.link.send(note{kind: noteReady}, nil); err != nil {
				return err
			}
			n, err := p.link.receive()
			return t.expect(p, n, noteReady, err)
		},
	} {
		var tasks errgroup.Group
		for _, p := range t.peers {
			if p != nil {
				tasks.Go(func() error {
					err := step(p)
					if err != nil {
						t.hangUp(err) // ends the steps with the others
					}
					return err
				})
			}
		}
		if err := tasks.Wait(); err != nil {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return err
		}
	}
	if !stop() {
		return context.Cause(ctx)
	}
	return nil
}

// expect is an error unless n is a note of kind from p, received with err.
func (t *member) expect(p *peer, n note, kind noteKind, err error) error {
	switch {
	case err == nil && n.kind == noteGoodbye:
		pe := t.readFarewell(n, p.rank, collective.OpSendRecv)
		if err = pe.Err; n.flags&flagExhausted != 0 {
			err = fmt.Errorf("%w: %w", collective.ErrNoMemory, err)
		}
	case err == nil && (n.kind != kind || (n.file != nil) != (kind == noteSegment)):
		err = errNote
	case err == nil:
		return nil
	}
	return &collective.PeerError{Rank: t.names.of(p.rank), Op: "connect", Err: err}
}

// receiveSegment maps the segment that p passes.
func (t *member) receiveSegment(p *peer) error {
	n, err := p.link.receive()
	if n.file != nil {
		defer n.file.Close()
	}
	if err := t.expect(p, n, noteSegment, err); err != nil {
		return err
	}
	size := segmentBytes(len(t.peers), t.stageBytes)
	if n.size != uint64(size) {
		return fmt.Errorf("rank %d has a segment of %d bytes, not %d: run one release with one StageBytes on all ranks", t.names.of(p.rank), n.size, size)
	}
	mem, err := adoptMemory(n.file, size)
	if err != nil {
		return noMemory(fmt.Errorf("the segment of rank %d: %w", t.names.of(p.rank), err))
	}
	p.seg = &segment{mem: mem}
	layOut(p.seg, len(t.peers), t.stageBytes)
	return nil
}

// start lets a member that has exchanged segments live, and tells the peers of the memory that is registered already.
func (t *member) start() {
	t.holds.Store(1)
	for _, p := range t.peers {
		if p != nil {
			t.holds.Add(1)
			t.readers.Go(func() { t.listen(p) })
		}
	}
	for _, b := range t.arena.join(t) {
		t.register(b)
	}
}

// hangUp closes the sockets because of err.
func (t *member) hangUp(err error) {
	bye := farewell(err)
	if errors.Is(err, collective.ErrNoMemory) {
		bye.flags |= flagExhausted
	}
	for _, p := range t.peers {
		if p != nil {
			p.link.end(bye)
		}
	}
}

// discard ends a member that never lived, because of err.
func (t *member) discard(err error) {
	t.hangUp(err)
	if t.own != nil {
		unmapMemory(t.own.mem)
	}
	for _, p := range t.peers {
		if p != nil && p.seg != nil {
			unmapMemory(p.seg.mem)
		}
	}
}
