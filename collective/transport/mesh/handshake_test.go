package mesh

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/farandole-ml/farandole/collective"
	"github.com/farandole-ml/farandole/collective/transport"
	"github.com/farandole-ml/farandole/elastic"
)

// attempt is a Connect that runs beside the test.
type attempt struct {
	rank  int
	conns [][]net.Conn
	err   error
}

func connect(t testing.TB, l *Listener, id transport.ID, addrs []string) <-chan attempt {
	done := make(chan attempt, 1)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	var wg sync.WaitGroup
	wg.Go(func() {
		conns, err := l.Connect(ctx, id, addrs)
		done <- attempt{id.Rank, conns, err}
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
	return done
}

// until waits for a state of the listener.
func (l *Listener) until(t testing.TB, what func() bool) {
	t.Helper()
	require.Eventually(t, func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return what()
	}, patience, time.Millisecond)
}

// requireWorks checks that the attempts formed one mesh: over each connection a rank hears from the one that it should.
func requireWorks(t testing.TB, attempts ...<-chan attempt) [][][]net.Conn {
	t.Helper()
	formed := make([][][]net.Conn, len(attempts))
	for _, a := range attempts {
		got := <-a
		require.NoError(t, got.err)
		formed[got.rank] = got.conns
		for _, c := range slices.Concat(got.conns...) {
			defer c.Close()
		}
	}
	for r, conns := range formed {
		require.Len(t, conns, len(attempts))
		require.Empty(t, conns[r])
		for peer, group := range conns {
			require.Len(t, group, len(formed[peer][r]))
			for i, c := range group {
				_, err := c.Write([]byte{byte(r), byte(peer), byte(i)})
				require.NoError(t, err)
				var b [3]byte
				_, err = io.ReadFull(formed[peer][r][i], b[:])
				require.NoError(t, err)
				require.Equal(t, [3]byte{byte(r), byte(peer), byte(i)}, b)
			}
		}
	}
	return formed
}

func id(gen elastic.Generation, rank int) transport.ID {
	return transport.ID{Job: "test", Generation: gen, Rank: rank}
}

func testAnEarlyPeerWaits(t *testing.T, n Network) {
	l, addrs := listen(t, n, 3, Config{})
	second := connect(t, l[1], id(7, 1), addrs)
	third := connect(t, l[2], id(7, 2), addrs)
	l[0].until(t, func() bool { return l[0].parked == 2 })
	requireWorks(t, second, third, connect(t, l[0], id(7, 0), addrs))
	require.Zero(t, l[0].parked)
}

func testAnEarlyPeerIsToldToTryAgain(t *testing.T, n Network) {
	l, addrs := listen(t, n, 2, Config{Admission: Admission{ParkTimeout: time.Millisecond}})
	second := connect(t, l[1], id(1, 1), addrs)
	seen := 0
	l[0].until(t, func() bool { seen += l[0].parked; return seen > 0 && l[0].parked == 0 })
	requireWorks(t, second, connect(t, l[0], id(1, 0), addrs))
}

func testEarlyPeersAreBounded(t *testing.T, n Network) {
	l, addrs := listen(t, n, 6, Config{Admission: Admission{MaxParked: 2}})
	var waiting []<-chan attempt
	for r := 1; r < 6; r++ {
		waiting = append(waiting, connect(t, l[r], id(1, r), addrs))
	}
	l[0].until(t, func() bool {
		require.LessOrEqual(t, l[0].parked, 2)
		return l[0].parked == 2
	})
	requireWorks(t, append(waiting, connect(t, l[0], id(1, 0), addrs))...)
}

func testAPeerThatIsNotUpYetIsDialledAgain(t *testing.T, n Network) {
	l, addrs := listen(t, n, 2, Config{})
	require.NoError(t, l[0].Close())
	second := connect(t, l[1], id(1, 1), addrs)
	l[1].until(t, func() bool { return l[1].forming[1] != nil })
	again, err := Listen(n, addrs[0], Config{})
	require.NoError(t, err)
	defer again.Close()
	requireWorks(t, second, connect(t, again, id(1, 0), addrs))
}

func testALowerGenerationIsRefused(t *testing.T, n Network) {
	l, addrs := listen(t, n, 2, Config{})
	early := connect(t, l[1], id(4, 1), addrs)
	l[0].until(t, func() bool { return l[0].parked == 1 })
	l[0].Fence(5)
	for _, a := range []<-chan attempt{early, connect(t, l[1], id(3, 1), addrs), connect(t, l[0], id(4, 0), addrs)} {
		err := (<-a).err
		require.ErrorIs(t, err, collective.ErrGenerationChanged)
		require.ErrorContains(t, err, "generation 5 is due")
	}
	l[0].Fence(2) // never back
	require.ErrorIs(t, (<-connect(t, l[0], id(4, 0), addrs)).err, collective.ErrGenerationChanged)
	requireWorks(t, connect(t, l[0], id(5, 0), addrs), connect(t, l[1], id(5, 1), addrs))
}

func testAFenceEndsAFormation(t *testing.T, n Network) {
	l, addrs := listen(t, n, 2, Config{})
	for rank := range 2 {
		if rank == 1 {
			require.NoError(t, l[0].Close()) // or it says at once that the generation is fenced
		}
		a := connect(t, l[rank], id(1, rank), addrs)
		l[rank].until(t, func() bool { return l[rank].forming[1] != nil })
		l[rank].Fence(2)
		require.ErrorIs(t, (<-a).err, collective.ErrGenerationChanged, "rank %d", rank)
	}
}

func testAWrongPeerIsRefused(t *testing.T, n Network) {
	good := hello{version: version, job: "test", generation: 1, from: 1, to: 0, world: 3, streams: 1}
	cases := map[string]struct {
		change func(h *hello)
		text   string
	}{
		"version":      {func(h *hello) { h.version++ }, "protocol version"},
		"job":          {func(h *hello) { h.job = "other" }, "this is job 'test', not 'other'"},
		"checksum":     {func(h *hello) { h.flags = 1 }, "checksums: off here, on there"},
		"a bit":        {func(h *hello) { h.flags = 4 }, "setting 2: off here, on there"},
		"world":        {func(h *hello) { h.world = 4 }, "world of 3 here, 4 there"},
		"address":      {func(h *hello) { h.from, h.to = 2, 1 }, "this is rank 0"},
		"direction":    {func(h *hello) { h.from = 0 }, "must wait"},
		"too soon":     {func(h *hello) { h.streams, h.stream = 3, 1 }, "opens connection 1; it has 0 of"},
		"a third rank": {func(h *hello) { h.from = 2 }, ""},
	}
	l, addrs := listen(t, n, 3, Config{})
	first := connect(t, l[0], id(1, 0), addrs)
	l[0].until(t, func() bool { return l[0].forming[1] != nil })
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			h := good
			c.change(&h)
			conn, err := n.Dial(t.Context(), addrs[0])
			require.NoError(t, err)
			defer conn.Close()
			err = l[1].introduceAs(conn, h)
			if c.text == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorIs(t, err, errRefused)
			require.ErrorContains(t, err, c.text)
		})
	}
	l[0].until(t, func() bool { return l[0].forming[1].seats[2].conns != nil })
	conn, err := n.Dial(t.Context(), addrs[0])
	require.NoError(t, err)
	defer conn.Close()
	h := good
	h.from = 2
	require.ErrorContains(t, l[1].introduceAs(conn, h), "two processes claim it")
	require.NoError(t, l[0].Close())
	require.ErrorIs(t, (<-first).err, net.ErrClosed)
}

func (l *Listener) introduceAs(c net.Conn, h hello) error {
	_, err := l.introduce(c, h)
	return err
}

func testALostHandshakeLeavesThePlaceFree(t *testing.T, n Network) {
	l, addrs := listen(t, n, 2, Config{})
	first := connect(t, l[0], id(1, 0), addrs)
	conn, err := n.Dial(t.Context(), addrs[0])
	require.NoError(t, err)
	_, err = conn.Write(hello{version: version, job: "test", generation: 1, from: 1, to: 0, world: 2, streams: 1}.append(nil))
	require.NoError(t, err)
	_, err = readReply(conn)
	require.NoError(t, err)
	require.NoError(t, conn.Close()) // without the confirmation
	requireWorks(t, first, connect(t, l[1], id(1, 1), addrs))
}

func testConnectNamesWhoIsMissing(t *testing.T, n Network) {
	cause := errors.New("out of patience")
	for rank, missing := range []int{1, 0} {
		l, addrs := listen(t, n, 2, Config{})
		require.NoError(t, l[missing].Close())
		ctx, cancel := context.WithCancelCause(context.Background())
		failed := make(chan error, 1)
		go func() {
			_, err := l[rank].Connect(ctx, id(1, rank), addrs)
			failed <- err
		}()
		l[rank].until(t, func() bool { return l[rank].forming[1] != nil })
		cancel(cause)
		err := <-failed
		require.ErrorIs(t, err, cause)
		var pe *collective.PeerError
		require.ErrorAs(t, err, &pe)
		require.Equal(t, missing, pe.Rank, "%v", err)
		require.ErrorContains(t, err, addrs[missing])
	}
}

func testConnectIsOncePerGeneration(t *testing.T, n Network) {
	l, addrs := listen(t, n, 1, Config{})
	requireWorks(t, connect(t, l[0], id(1, 0), addrs))
	require.ErrorContains(t, (<-connect(t, l[0], id(1, 0), addrs)).err, "already")
	require.ErrorContains(t, (<-connect(t, l[0], transport.ID{Job: "other", Generation: 2}, addrs)).err, `"test"`)
	require.ErrorContains(t, (<-connect(t, l[0], id(0, 0), addrs)).err, "generation 0")
	require.ErrorContains(t, (<-connect(t, l[0], id(2, 1), addrs)).err, "out of range")
	requireWorks(t, connect(t, l[0], id(2, 0), addrs))
}

// garbage gives what strangers send.
func garbage() [][]byte {
	h := hello{version: version, job: "test", generation: 1, from: 1, to: 0, world: 2, streams: 1}.append(nil)
	change := func(at int, v ...byte) []byte {
		b := bytes.Clone(h)
		copy(b[at:], v)
		return b
	}
	claim := change(10, 0xff, 0xff) // a job name of 64 KiB
	foreign := bytes.Clone(h)
	slices.Reverse(foreign[12:16])
	clear(foreign[40:44])
	binary.LittleEndian.PutUint32(foreign[40:], crc32.Checksum(foreign, castagnoli))
	all := [][]byte{
		nil, {0}, []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"), h[:20], h[:helloBytes], claim, foreign,
		change(40, 1, 2, 3, 4), change(24, 0xff, 0xff, 0xff, 0xff), append(bytes.Clone(claim), make([]byte, 1<<16)...),
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for range 50 {
		b := make([]byte, rng.IntN(300))
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		all = append(all, b)
	}
	return all
}

func testGarbageChangesNothing(t *testing.T, n Network) {
	l, addrs := listen(t, n, 2, Config{Admission: Admission{MaxPending: 8}})
	pour := func() {
		for _, b := range garbage() {
			c, err := n.Dial(t.Context(), addrs[0])
			require.NoError(t, err)
			c.Write(b)
			c.(interface{ CloseWrite() error }).CloseWrite()
			io.Copy(io.Discard, c) // until the listener closes it
			c.Close()
		}
	}
	pour()
	first := connect(t, l[0], id(1, 0), addrs)
	pour()
	second := connect(t, l[1], id(1, 1), addrs)
	a, b := <-first, <-second
	require.NoError(t, a.err)
	require.NoError(t, b.err)
	pour()
	requireWorks(t, done(a), done(b))
	l[0].until(t, func() bool { return len(l[0].pending) == 0 && l[0].parked == 0 })
}

func done(a attempt) <-chan attempt {
	c := make(chan attempt, 1)
	c <- a
	return c
}

func testSilentClientsKeepNobodyOut(t *testing.T, n Network) {
	l, addrs := listen(t, n, 2, Config{Admission: Admission{MaxPending: 4, HandshakeTimeout: patience}})
	const clients = 20
	closed := make(chan struct{}, clients)
	var reading sync.WaitGroup
	defer reading.Wait()
	for range clients {
		c, err := n.Dial(t.Context(), addrs[0])
		require.NoError(t, err)
		defer c.Close()
		reading.Go(func() {
			c.Read(make([]byte, 1))
			closed <- struct{}{}
		})
	}
	for range clients - 4 {
		<-closed // displaced
	}
	l[0].until(t, func() bool { return len(l[0].pending) == 4 })
	requireWorks(t, connect(t, l[0], id(1, 0), addrs), connect(t, l[1], id(1, 1), addrs))
}

func testASlowHandshakeEnds(t *testing.T, n Network) {
	l, addrs := listen(t, n, 1, Config{Admission: Admission{HandshakeTimeout: 20 * time.Millisecond}})
	c, err := n.Dial(t.Context(), addrs[0])
	require.NoError(t, err)
	defer c.Close()
	_, err = c.Write([]byte(helloMagic))
	require.NoError(t, err)
	require.NoError(t, c.SetReadDeadline(time.Now().Add(patience)))
	_, err = c.Read(make([]byte, 1))
	require.Error(t, err)
	require.NotErrorIs(t, err, context.DeadlineExceeded)
	l[0].until(t, func() bool { return len(l[0].pending) == 0 })
}

func FuzzHello(f *testing.F) {
	for _, b := range garbage() {
		f.Add(b)
	}
	f.Add(hello{version: version, job: "j", generation: 9, from: 2, to: 1, world: 3, flags: 1, stream: 2, streams: 3}.append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := readHello(bytes.NewReader(b))
		if err != nil {
			return
		}
		again, err := readHello(bytes.NewReader(h.append(nil)))
		require.NoError(t, err)
		require.Equal(t, h, again)
	})
}

func FuzzReply(f *testing.F) {
	f.Add(reply{verdict: refused, generation: 7, text: "because"}.append(nil))
	f.Add(reply{verdict: welcome, streams: 4, generation: 7}.append(nil))
	f.Add([]byte(replyMagic))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := readReply(bytes.NewReader(b))
		if err != nil {
			return
		}
		again, err := readReply(bytes.NewReader(r.append(nil)))
		require.NoError(t, err)
		require.Equal(t, r, again)
	})
}
