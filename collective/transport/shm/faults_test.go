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
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/farandole-ml/farandole/collective"
	"github.com/farandole-ml/farandole/collective/transport"
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
