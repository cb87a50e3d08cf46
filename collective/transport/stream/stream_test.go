package stream

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/farandole-ml/farandole/collective"
	"github.com/farandole-ml/farandole/collective/collectivetest"
	"github.com/farandole-ml/farandole/collective/transport"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// networks are the kinds of connections that the tests use.
var networks = []string{"tcp", "unix"}

// pair gives the two ends of a connection.
func pair(t testing.TB, network string) (net.Conn, net.Conn) {
	addr := "127.0.0.1:0"
	if network == "unix" {
		addr = filepath.Join(t.TempDir(), "socket")
	}
	socket, err := net.Listen(network, addr)
	require.NoError(t, err)
	defer socket.Close()
	far, err := net.Dial(network, socket.Addr().String())
	require.NoError(t, err)
	near, err := socket.Accept()
	require.NoError(t, err)
	return near, far
}

func id(rank int) transport.ID { return transport.ID{Job: "test", Generation: 1, Rank: rank} }

// connected gives the transports of a group whose pairs have some connections each.
func connected(t testing.TB, network string, world, streams int, cfg Config) []collective.Transport {
	conns := make([][][]net.Conn, world)
	for r := range conns {
		conns[r] = make([][]net.Conn, world)
	}
	for a := range world {
		for b := range a {
			for range streams {
				x, y := pair(t, network)
				conns[a][b], conns[b][a] = append(conns[a][b], x), append(conns[b][a], y)
			}
		}
	}
	var transports []collective.Transport
	for r := range conns {
		tr, err := New(id(r), conns[r], cfg)
		require.NoError(t, err)
		transports = append(transports, tr)
	}
	return transports
}

// halfMesh gives rank 0 of a group of two, and the other end of its connection for the test to play rank 1.
func halfMesh(t *testing.T, network string, cfg Config) (*stream, net.Conn) {
	near, far := pair(t, network)
	tr, err := New(id(0), [][]net.Conn{nil, {near}}, cfg)
	require.NoError(t, err)
	t.Cleanup(func() { tr.Close(); far.Close() })
	return tr.(*stream), far
}

// each runs a test for each network.
func each(t *testing.T, test func(t *testing.T, network string)) {
	for _, network := range networks {
		t.Run(network, func(t *testing.T) { test(t, network) })
	}
}

func frame(h transport.Header, message []byte) []byte {
	var b [transport.HeaderBytes]byte
	h.Encode(&b, frameMagic)
	return append(b[:], message...)
}

func TestACorruptFrameIsFound(t *testing.T) { each(t, testACorruptFrameIsFound) }

func testACorruptFrameIsFound(t *testing.T, network string) {
	op := collective.Op{Kind: collective.OpBarrier, Seq: 3}
	message := []byte("a message")
	good := transport.Header{Op: op, Bytes: uint64(len(message)), Number: 1}
	flip := func(b []byte, at int) []byte { b[at] ^= 4; return b }
	summed := good
	summed.Sum([]byte("another message"))
	second := good
	second.Number = 2
	long := good
	long.Bytes = 1 << 40
	cases := map[string]struct {
		frame    []byte
		checksum bool
		want     error
	}{
		"magic":          {flip(frame(good, message), 0), false, transport.ErrCorrupt},
		"header":         {flip(frame(good, message), 25), false, transport.ErrCorrupt},
		"garbage":        {make([]byte, 1000), false, transport.ErrCorrupt},
		"number":         {frame(second, message), false, transport.ErrCorrupt},
		"message":        {frame(summed, message), true, transport.ErrCorrupt},
		"length":         {frame(long, message), false, new(collective.OutOfStepError)},
		"cut in header":  {frame(good, nil)[:7], false, collective.ErrPeerLost},
		"cut in message": {frame(good, message[:3]), false, collective.ErrPeerLost},
		"nothing":        {nil, false, collective.ErrPeerLost},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			tr, far := halfMesh(t, network, Config{Checksum: c.checksum})
			tr.Mark(op)
			_, err := far.Write(c.frame)
			require.NoError(t, err)
			require.NoError(t, far.(interface{ CloseWrite() error }).CloseWrite())
			err = tr.Recv(1, make([]byte, len(message)))
			var pe *collective.PeerError
			require.ErrorAs(t, err, &pe)
			require.Equal(t, 1, pe.Rank)
			require.Equal(t, "barrier", pe.Op)
			if oos := new(collective.OutOfStepError); errors.As(c.want, &oos) {
				require.ErrorAs(t, err, &oos)
			} else {
				require.ErrorIs(t, err, c.want)
			}
			require.Equal(t, err, tr.Send(1, message))
		})
	}
}

func TestAFlippedBitIsFound(t *testing.T) { each(t, testAFlippedBitIsFound) }

func testAFlippedBitIsFound(t *testing.T, network string) {
	a, far := halfMesh(t, network, Config{Checksum: true})
	message := make([]byte, 3000)
	require.NoError(t, a.Send(1, message))
	b := make([]byte, transport.HeaderBytes+len(message))
	for n := 0; n < len(b); {
		k, err := far.Read(b[n:])
		require.NoError(t, err)
		n += k
	}
	_, err := far.Write(b) // back to its sender
	require.NoError(t, err)
	require.NoError(t, a.Recv(1, message))
	require.NoError(t, a.Send(1, message))
	for n := 0; n < len(b); {
		k, err := far.Read(b[n:])
		require.NoError(t, err)
		n += k
	}
	b[2000] ^= 16
	_, err = far.Write(b)
	require.NoError(t, err)
	require.ErrorIs(t, a.Recv(1, message), transport.ErrCorrupt)
}

// TestTheFirstFailureIsBlamed kills rank 2 without a goodbye. Rank 1 sees it; rank 0 hears of it from rank 1 alone.
func TestTheFirstFailureIsBlamed(t *testing.T) { each(t, testTheFirstFailureIsBlamed) }

func testTheFirstFailureIsBlamed(t *testing.T, network string) {
	transports := connected(t, network, 3, 1, Config{})
	for _, tr := range transports {
		defer tr.Close()
	}
	errs := make([]error, 2)
	var wg sync.WaitGroup
	for r := range errs {
		wg.Go(func() { errs[r] = transports[r].Recv(r+1, make([]byte, 1)) })
	}
	dying := transports[2].(*stream)
	dying.peers[1].wires[0].close()
	wg.Wait()
	for r, err := range errs {
		var pe *collective.PeerError
		require.ErrorAs(t, err, &pe, "rank %d", r)
		require.Equal(t, 2, pe.Rank, "rank %d: %v", r, err)
	}
	require.ErrorContains(t, errs[0], "reported by rank 1")
}

func TestAGoodbyeSaysWhy(t *testing.T) { each(t, testAGoodbyeSaysWhy) }

func testAGoodbyeSaysWhy(t *testing.T, network string) {
	transports := connected(t, network, 2, 1, Config{})
	defer transports[1].Close()
	transports[0].Abort(errors.New("the disk is full"))
	err := transports[1].Recv(0, make([]byte, 5))
	require.ErrorIs(t, err, collective.ErrPeerLeft)
	require.ErrorContains(t, err, "the disk is full")
	require.NoError(t, transports[0].Close())
}

// TestAMoveBlamesNobody: a rank that leaves for another generation is known by its peers to have done just that.
func TestAMoveBlamesNobody(t *testing.T) { each(t, testAMoveBlamesNobody) }

func testAMoveBlamesNobody(t *testing.T, network string) {
	transports := connected(t, network, 2, 1, Config{})
	defer transports[1].Close()
	transports[0].Abort(collective.ErrGenerationChanged)
	require.ErrorIs(t, transports[1].Recv(0, make([]byte, 5)), collective.ErrPeerMoved)
	require.NoError(t, transports[0].Close())
}

// TestSteadyStateAllocatesNothing runs operations on a standing group.
func TestSteadyStateAllocatesNothing(t *testing.T) {
	each(t, func(t *testing.T, network string) {
		for name, here := range map[string]int{"one thread": 1 << 20, "two threads": 0} {
			t.Run(name, func(t *testing.T) { testSteadyStateAllocatesNothing(t, network, here) })
		}
	})
}

func testSteadyStateAllocatesNothing(t *testing.T, network string, here int) {
	var groups []*collective.Group
	for _, tr := range connected(t, network, 2, 2, Config{Here: here}) {
		g := collective.New(tr)
		defer g.Close()
		groups = append(groups, g)
	}
	collectivetest.RequireNoAllocations(t, groups, func(g *collective.Group) func() error {
		ctx := context.Background()
		small, large := make([]float32, 100), make([]float32, 1<<20)
		return func() error {
			for _, b := range [][]float32{small, large} {
				if err := g.AllReduce(ctx, collective.Of(b), collective.Of(b), collective.Sum); err != nil {
					return err
				}
			}
			return g.Barrier(ctx)
		}
	})
}
