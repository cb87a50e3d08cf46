//go:build linux

package shm

import (
	"context"
	"errors"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/farandole-ml/farandole/collective"
	"github.com/farandole-ml/farandole/collective/collectivetest"
	"github.com/farandole-ml/farandole/collective/transport"
	"github.com/farandole-ml/farandole/elastic"
)

// halfGroup gives rank 0 of a group of two, and the other end of its socket for the test to play rank 1, whose segment it has too.
func halfGroup(t *testing.T) (*member, *member, *link) {
	near, far := socketPair(t)
	l := &Listener{stageBytes: minStageBytes, arena: &arena{}, log: quiet}
	id := transport.ID{Job: "test", Generation: 1}
	played := &member{id: transport.ID{Job: "test", Generation: 1, Rank: 1}, stageBytes: minStageBytes, arena: &arena{}, log: quiet, peers: []*peer{{link: link{conn: far}}, nil}}
	var exchanging sync.WaitGroup
	exchanging.Go(func() {
		if err := played.exchange(t.Context()); err != nil {
			t.Error(err)
		}
	})
	m, err := l.assemble(t.Context(), id, [][]net.Conn{nil, {near}}, names{total: 2})
	require.NoError(t, err)
	exchanging.Wait()
	t.Cleanup(func() {
		m.Close()
		far.Close()
		unmapMemory(played.own.mem)
		unmapMemory(played.peers[0].seg.mem)
	})
	return m, played, &played.peers[0].link
}

func socketPair(t *testing.T) (a, b *net.UnixConn) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	var conns [2]*net.UnixConn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "pair")
		c, err := net.FileConn(f)
		require.NoError(t, err)
		f.Close()
		conns[i] = c.(*net.UnixConn)
	}
	return conns[0], conns[1]
}

// requireLost checks that m ends because of rank 1.
func requireLost(t *testing.T, m *member, want error) {
	t.Helper()
	err := m.Recv(1, make([]byte, 1))
	var pe *collective.PeerError
	require.ErrorAs(t, err, &pe)
	require.Equal(t, 1, pe.Rank)
	require.ErrorIs(t, err, want)
	require.Equal(t, err, m.Send(1, nil))
}

func memfd(t *testing.T, bytes int, sealed int) *os.File {
	fd, err := unix.MemfdCreate("test", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	require.NoError(t, err)
	f := os.NewFile(uintptr(fd), "test")
	t.Cleanup(func() { f.Close() })
	require.NoError(t, f.Truncate(int64(bytes)))
	_, err = unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, sealed)
	require.NoError(t, err)
	return f
}

func TestNotesOfStrangersEndTheGroup(t *testing.T) {
	good := note{kind: noteFreed, buffer: 1}
	change := func(at int, v byte) []byte {
		b := good.encode()
		b[at] = v
		return b
	}
	cases := map[string]struct {
		bytes []byte
		want  error
	}{
		"nothing":            {nil, collective.ErrPeerLost},
		"cut":                {good.encode()[:10], collective.ErrPeerLost},
		"garbage":            {[]byte(strings.Repeat("GET / HTTP/1.1\r\n", 10)), errNote},
		"magic":              {change(0, 1), errNote},
		"kind":               {change(4, 99), errNote},
		"no kind":            {change(4, 0), errNote},
		"a second segment":   {change(4, byte(noteSegment)), errNote},
		"a buffer of no fd":  {change(4, byte(noteBuffer)), errNote},
		"text too long":      {change(26, 1), errNote},
		"text cut":           {change(24, 9), collective.ErrPeerLost},
		"size too large":     {change(23, 1), errNote},
		"goodbye of nothing": {change(4, byte(noteGoodbye)), collective.ErrPeerLeft},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			m, _, far := halfGroup(t)
			_, err := far.conn.Write(c.bytes)
			require.NoError(t, err)
			require.NoError(t, far.conn.CloseWrite())
			requireLost(t, m, c.want)
		})
	}
}

// TestTheGoodbyeFollowsTheNoteThatIsBeingSent: a rank that ends while another goroutine sends a note says why all the same.
func TestTheGoodbyeFollowsTheNoteThatIsBeingSent(t *testing.T) {
	for range 200 {
		near, far := socketPair(t)
		l := &link{conn: near}
		started := make(chan struct{})
		var sending sync.WaitGroup
		sending.Go(func() {
			for i := 0; i < 100 && l.send(note{kind: noteFreed}, nil) == nil; i++ { // as many as there is room for
				if i == 0 {
					close(started)
				}
			}
		})
		var last note
		sending.Go(func() {
			peer := link{conn: far}
			for {
				n, err := peer.receive()
				if err != nil {
					return
				}
				last = n
			}
		})
		<-started
		l.end(note{kind: noteGoodbye, text: "bye"})
		sending.Wait()
		far.Close()
		require.Equal(t, note{kind: noteGoodbye, text: "bye"}, last)
	}
}

// TestAPeerThatTakesNothingDelaysNoEnd: neither a frozen peer's full socket nor the note that waits for it holds up the end.
func TestAPeerThatTakesNothingDelaysNoEnd(t *testing.T) {
	fastest := time.Hour
	for range 5 {
		near, far := socketPair(t)
		l := &link{conn: near}
		sent := make(chan error, 1)
		var notes atomic.Int64
		go func() {
			for {
				if err := l.send(note{kind: noteFreed}, nil); err != nil {
					sent <- err
					return
				}
				notes.Add(1)
			}
		}()
		for before := int64(-1); before != notes.Load(); time.Sleep(20 * time.Millisecond) { // until it waits for room
			before = notes.Load()
		}
		start := time.Now()
		l.end(note{kind: noteGoodbye})
		fastest = min(fastest, time.Since(start))
		require.Error(t, <-sent)
		far.Close()
	}
	require.Less(t, fastest, noteLimit/4)
}

func TestMemoryOfStrangersIsNotMapped(t *testing.T) {
	sealed := unix.F_SEAL_SHRINK | unix.F_SEAL_GROW
	cases := map[string]struct {
		file *os.File
		size uint64
	}{
		"not sealed":          {memfd(t, 8192, 0), 8192},
		"sealed against less": {memfd(t, 8192, unix.F_SEAL_GROW), 8192},
		"too short":           {memfd(t, 4096, sealed), 8192},
		"no memory":           {os.Stderr, 4096},
		"absurd":              {memfd(t, 4096, sealed), maxBufferBytes},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			m, _, far := halfGroup(t)
			require.NoError(t, far.send(note{kind: noteBuffer, buffer: 1, size: c.size}, c.file))
			n, err := far.receive()
			require.NoError(t, err)
			require.Equal(t, noteMapped, n.kind)
			require.Zero(t, n.flags&flagDone)
			require.Empty(t, *m.peers[1].buffers.Load())
		})
	}
	t.Run("twice", func(t *testing.T) {
		m, _, far := halfGroup(t)
		for range 2 {
			require.NoError(t, far.send(note{kind: noteBuffer, buffer: 1, size: 4096}, memfd(t, 4096, sealed)))
		}
		requireLost(t, m, errNote)
	})
	t.Run("good", func(t *testing.T) {
		m, _, far := halfGroup(t)
		require.NoError(t, far.send(note{kind: noteBuffer, buffer: 1, size: 4096}, memfd(t, 4096, sealed)))
		n, err := far.receive()
		require.NoError(t, err)
		require.NotZero(t, n.flags&flagDone)
		p := m.peers[1]
		require.Len(t, p.at(place{offset: 96, buffer: 1}, 4000), 4000)
		require.Nil(t, p.at(place{offset: 97, buffer: 1}, 4000))
		require.Nil(t, p.at(place{offset: 1 << 63, buffer: 1}, 4000))
		require.Nil(t, p.at(place{offset: 0, buffer: 2}, 1))
		require.NoError(t, far.send(note{kind: noteFreed, buffer: 1}, nil))
		require.Eventually(t, func() bool { return len(*p.buffers.Load()) == 0 }, patience, 1e6)
	})
}

// TestASegmentOfAStrangerIsRefused has a first rank whose segment is not what this release makes.
func TestASegmentOfAStrangerIsRefused(t *testing.T) {
	size := segmentBytes(2, minStageBytes)
	sealed := unix.F_SEAL_SHRINK | unix.F_SEAL_GROW
	cases := map[string]struct {
		n    note
		file *os.File
		want error
	}{
		"size":       {note{kind: noteSegment, size: 4096}, memfd(t, 4096, sealed), nil},
		"shorter":    {note{kind: noteSegment, size: uint64(size)}, memfd(t, 4096, sealed), nil},
		"not sealed": {note{kind: noteSegment, size: uint64(size)}, memfd(t, size, 0), errUnsealed},
		"no fd":      {note{kind: noteSegment, size: uint64(size)}, nil, errNote},
		"other note": {note{kind: noteReady}, nil, errNote},
		"goodbye":    {farewell(errors.New("the disk is full")), nil, collective.ErrPeerLeft},
		"exhausted":  {note{kind: noteGoodbye, flags: flagExhausted}, nil, collective.ErrNoMemory},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			near, far := socketPair(t)
			defer far.Close()
			require.NoError(t, (&link{conn: far}).send(c.n, c.file))
			l := &Listener{stageBytes: minStageBytes, arena: &arena{}, log: quiet}
			_, err := l.assemble(t.Context(), transport.ID{Job: "test", Generation: 1}, [][]net.Conn{nil, {near}}, names{total: 2})
			require.Error(t, err)
			if c.want != nil {
				require.ErrorIs(t, err, c.want)
			}
		})
	}
}

func TestACorruptSegmentEndsTheGroup(t *testing.T) {
	op := collective.Op{Kind: collective.OpAllReduce, Seq: 1, Bytes: 1 << 20, Shape: 1}
	t.Run("more than a ring holds", func(t *testing.T) {
		m, far, _ := halfGroup(t)
		far.own.rings[0].tail.set(1 << 30)
		requireLost(t, m, ErrCorrupt)
	})
	t.Run("a message of another number", func(t *testing.T) {
		m, far, _ := halfGroup(t)
		far.own.rings[0].data[recordNumber] = 7
		far.own.rings[0].tail.set(recordBytes)
		requireLost(t, m, ErrCorrupt)
	})
	t.Run("more read than sent", func(t *testing.T) {
		m, far, _ := halfGroup(t)
		far.peers[0].seg.rings[1].head.set(1 << 30)
		require.ErrorIs(t, m.Send(1, make([]byte, 100)), ErrCorrupt)
		ok, err := m.TrySend(1, nil)
		require.False(t, ok)
		require.Error(t, err)
	})
	t.Run("an array that is not there", func(t *testing.T) {
		m, far, other := halfGroup(t)
		var answering sync.WaitGroup
		answering.Go(func() { // the played rank says that it has mapped what it has not
			if n, err := other.receive(); err == nil {
				n.file.Close()
				_ = other.send(note{kind: noteMapped, buffer: n.buffer, flags: flagDone}, nil)
			}
		})
		b, err := m.Alloc(1 << 20)
		require.NoError(t, err)
		answering.Wait()
		m.Mark(op)
		far.publish(&op, 0, place{buffer: 9, offset: 1 << 60}, place{buffer: 9})
		v := collective.Of(floatsOf(b))
		_, err = m.Do(op, &collective.Call{Kind: op.Kind, In: v, Out: v})
		require.ErrorIs(t, err, ErrCorrupt)
		require.NoError(t, m.Free(b))
	})
}

// TestMemoryIsUsedAgainInTheNextGroup allocates once for two generations.
func TestMemoryIsUsedAgainInTheNextGroup(t *testing.T) {
	listeners, addrs := listen(t, 3)
	buffers := make([][]byte, 3)
	for gen := range 3 {
		transports := join(t, listeners, addrs, elastic.Generation(gen+1))
		groups := groupsOf(t, transports)
		each(t, groups, func(g *collective.Group) (err error) {
			r := g.Rank()
			m := transports[r].(*member)
			if gen == 0 {
				if buffers[r], err = m.Alloc(100_000); err != nil {
					return err
				}
			}
			for { // until the peers have mapped it
				if _, ok := m.locate(buffers[r]); ok {
					break
				}
			}
			for i := range buffers[r] {
				buffers[r][i] = byte(r + 1)
			}
			v := collective.Vector{Type: collective.Uint8, Data: buffers[r]}
			if err := g.AllReduce(context.Background(), v, v, collective.Sum); err != nil {
				return err
			}
			if buffers[r][99_999] != 6 || !m.task.exposed {
				return errors.New("not reduced in place")
			}
			return nil
		})
		for _, g := range groups {
			require.NoError(t, g.Close())
		}
	}
	for r, l := range listeners {
		require.EqualValues(t, 6, buffers[r][0], "memory outlives its group")
		require.NoError(t, l.arena.destroy(buffers[r]))
		require.ErrorIs(t, l.arena.destroy(buffers[r]), errNotRegistered)
	}
}

// TestALateWriterHitsNothing has a peer that writes to registered memory after the operation has failed here.
func TestALateWriterHitsNothing(t *testing.T) {
	listeners, addrs := listen(t, 2)
	transports := join(t, listeners, addrs, 1)
	m, late := transports[0].(*member), transports[1].(*member)
	b, err := m.Alloc(3 * hugeBytes)
	require.NoError(t, err)
	for i := range b {
		b[i] = 1
	}
	theirs := (*late.peers[0].buffers.Load())[0].mem
	g := collective.New(m)
	defer g.Close()
	ctx, cancel := context.WithCancel(context.Background())
	var failing sync.WaitGroup
	out := b[5000 : 5000+hugeBytes]
	failing.Go(func() {
		v := collective.Vector{Type: collective.Uint8, Data: out}
		err = g.AllReduce(ctx, v, v, collective.Sum)
	})
	require.Eventually(t, func() bool { return late.peers[0].seg.line[1].count32() == 1 }, patience, 1e6) // it is in
	cancel()
	failing.Wait()
	require.ErrorIs(t, err, context.Canceled)
	for i := range theirs {
		theirs[i] = 99
	}
	for i := range out {
		require.NotEqualValues(t, 99, out[i])
	}
	require.EqualValues(t, 1, b[4999], "what is beside it in its pages stays")
	require.EqualValues(t, 1, b[5000+hugeBytes])
	require.NoError(t, late.Close())
	clear(b)
	groups := groupsOf(t, join(t, listeners, addrs, 2))
	each(t, groups, func(g *collective.Group) error {
		v := collective.Vector{Type: collective.Uint8, Data: make([]byte, len(b))}
		if g.Rank() == 0 {
			v.Data = b
		}
		for i := range v.Data {
			v.Data[i] = 3
		}
		return g.AllReduce(context.Background(), v, v, collective.Sum)
	})
	require.EqualValues(t, 6, b[5000])
	require.NoError(t, listeners[0].arena.destroy(b))
}

func (l *line) count32() uint32 { return atomic.LoadUint32(&l.count) }

// TestExhaustedMemory: what cannot be had is said so, and the group's own Alloc goes on without it.
func TestExhaustedMemory(t *testing.T) {
	groups := groupsOf(t, connected(t, 2))
	m := groups[0]
	tr := connected(t, 1)[0].(*member)
	defer tr.Close()
	_, err := tr.Alloc(maxBufferBytes)
	require.ErrorIs(t, err, collective.ErrNoMemory)
	_, err = tr.Alloc(-1)
	require.ErrorIs(t, err, collective.ErrNoMemory)
	var limit syscall.Rlimit
	require.NoError(t, syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit))
	low := limit
	low.Cur = 3
	require.NoError(t, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &low))
	b, err := m.Alloc(1 << 20)
	require.NoError(t, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit))
	require.NoError(t, err, "ordinary memory takes its place")
	each(t, groups, func(g *collective.Group) error {
		v := collective.Vector{Type: collective.Uint8, Data: make([]byte, len(b))}
		if g == m {
			v.Data = b
		}
		return g.AllReduce(context.Background(), v, v, collective.Sum)
	})
	require.NoError(t, m.Free(b))
}

// TestOutOfStepWithAMessage: one rank waits for a message, the other one for a meeting.
func TestOutOfStepWithAMessage(t *testing.T) {
	groups := groupsOf(t, connected(t, 2))
	errs := make([]error, 2)
	var wg sync.WaitGroup
	wg.Go(func() { errs[0] = groups[0].Recv(context.Background(), 1, make([]byte, 1)) })
	wg.Go(func() { errs[1] = groups[1].Barrier(context.Background()) })
	wg.Wait()
	for r, err := range errs {
		var step *collective.OutOfStepError
		require.ErrorAs(t, err, &step, "rank %d", r)
	}
}

// TestNothingLeaks counts descriptors and mappings over groups that end in several ways.
func TestNothingLeaks(t *testing.T) {
	round := func() {
		transports := connected(t, 3)
		b, err := transports[0].(*member).Alloc(1 << 20)
		require.NoError(t, err)
		_, err = transports[1].(*member).Alloc(5)
		require.NoError(t, err)
		require.NoError(t, transports[0].(*member).Free(b))
		transports[2].Abort(errors.New("test"))
		for _, tr := range transports {
			require.NoError(t, tr.Close())
		}
		arena := transports[1].(*member).arena
		require.NoError(t, arena.destroy(arena.buffers[0].mem))
	}
	count := func() (fds, maps int) {
		entries, err := os.ReadDir("/proc/self/fd")
		require.NoError(t, err)
		b, err := os.ReadFile("/proc/self/maps")
		require.NoError(t, err)
		return len(entries), strings.Count(string(b), "farandole")
	}
	round()
	fds, maps := count()
	for range 5 {
		round()
	}
	nowFDs, nowMaps := count()
	require.Equal(t, fds, nowFDs)
	require.Equal(t, maps, nowMaps)
	require.Zero(t, nowMaps)
}

// TestSteadyStateAllocatesNothing runs operations of every kind on a standing group.
func TestSteadyStateAllocatesNothing(t *testing.T) {
	for _, at := range placements {
		t.Run(at.name, func(t *testing.T) {
			groups := groupsOf(t, connected(t, 2))
			collectivetest.RequireNoAllocations(t, groups, func(g *collective.Group) func() error {
				var calls []collective.Call
				for _, p := range problems {
					for _, n := range []int{100, 100_000} {
						c := p.call
						in, _, err := at.array(g, p.in(2, n))
						require.NoError(t, err)
						out, _, err := at.array(g, p.out(2, n))
						require.NoError(t, err)
						c.In, c.Out = collective.Of(floatsOf(in)), collective.Of(floatsOf(out))
						calls = append(calls, c, collective.Call{Kind: collective.OpBarrier})
					}
				}
				for _, n := range []int{100, 100_000} {
					c := collective.Call{Kind: collective.OpReduceTree, Ranges: elastic.Assign(3, 2), Shards: 3}
					for _, of := range elastic.Partials(c.Ranges[g.Rank()], c.Shards) {
						b, _, err := at.array(g, n)
						require.NoError(t, err)
						c.Partials = append(c.Partials, collective.Partial{Node: of, Data: floatsOf(b)})
					}
					c.Out = collective.Of(c.Partials[0].Data)
					calls = append(calls, c)
				}
				ctx, message := context.Background(), make([]byte, 1<<20)
				return func() error {
					for i := range calls {
						if err := g.Do(ctx, &calls[i]); err != nil {
							return err
						}
					}
					if g.Rank() == 0 {
						return errors.Join(g.Send(ctx, 1, message), g.Recv(ctx, 1, message))
					}
					return errors.Join(g.Recv(ctx, 0, message), g.Send(ctx, 0, message))
				}
			})
		})
	}
}

// TestFirstOperationsAllocateNothing: no operation needs another kind before it to have made its lists.
func TestFirstOperationsAllocateNothing(t *testing.T) {
	for _, p := range problems {
		t.Run(p.call.Kind.String(), func(t *testing.T) {
			groups := groupsOf(t, connected(t, 2))
			collectivetest.RequireNoAllocations(t, groups, func(g *collective.Group) func() error {
				const n = 100_000
				c := p.call
				c.In, c.Out = collective.Of(make([]float32, p.in(2, n))), collective.Of(make([]float32, p.out(2, n)))
				return func() error { return g.Do(context.Background(), &c) }
			})
		})
	}
}
