package grpc

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/farandole-ml/farandole/collective"
	"github.com/farandole-ml/farandole/collective/collectivetest"
	"github.com/farandole-ml/farandole/collective/transport"
	"github.com/farandole-ml/farandole/collective/transport/mesh"
)

func id(rank int) transport.ID { return collectivetest.ID(1, rank) }

const patience = collectivetest.Patience

// half gives rank 0 of a group of two, and the other end of its link for the test to play rank 1.
func half(t *testing.T, cfg Config) (*group, *link) {
	listeners, addrs := listenAll(t, 2, cfg)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var conns [][]net.Conn
	var far error
	var wg sync.WaitGroup
	wg.Go(func() { conns, far = listeners[1].Listener.Connect(ctx, id(1), addrs) })
	tr, err := listeners[0].Connect(ctx, id(0), addrs)
	wg.Wait()
	require.NoError(t, err)
	require.NoError(t, far)
	l := conns[0][0].(*link)
	t.Cleanup(func() { l.Close(); tr.Close() })
	return tr.(*group), l
}

func encoded(h transport.Header, message []byte) []byte {
	var b [transport.HeaderBytes]byte
	h.Encode(&b, frameMagic)
	return append(b[:], message...)
}

func requirePeer(t *testing.T, err error, rank int) {
	t.Helper()
	var pe *collective.PeerError
	require.ErrorAs(t, err, &pe)
	require.Equal(t, rank, pe.Rank, "%v", err)
}

func TestACorruptFrameIsFound(t *testing.T) {
	op := collective.Op{Kind: collective.OpBarrier, Seq: 3}
	message := []byte("a message")
	good := transport.Header{Op: op, Bytes: uint64(len(message)), Number: 1}
	with := func(change func(h *transport.Header)) transport.Header { h := good; change(&h); return h }
	flip := func(b []byte, at int) []byte { b[at] ^= 4; return b }
	summed := with(func(h *transport.Header) { h.Sum(message[1:]) })
	cases := map[string]struct {
		frame    []byte
		checksum bool
		want     error
	}{
		"magic":           {flip(encoded(good, message), 0), false, transport.ErrCorrupt},
		"header":          {flip(encoded(good, message), 25), false, transport.ErrCorrupt},
		"garbage":         {make([]byte, 1000), false, transport.ErrCorrupt},
		"short":           {encoded(good, nil)[:20], false, transport.ErrCorrupt},
		"nothing":         {[]byte{}, false, transport.ErrCorrupt},
		"number":          {encoded(with(func(h *transport.Header) { h.Number = 2 }), message), false, transport.ErrCorrupt},
		"checksum":        {encoded(summed, message), true, transport.ErrCorrupt},
		"no checksum":     {encoded(good, message), true, transport.ErrCorrupt},
		"a piece of none": {encoded(good, nil), false, transport.ErrCorrupt},
		"too long":        {encoded(good, append(message, 0)), false, transport.ErrCorrupt},
		"length":          {encoded(with(func(h *transport.Header) { h.Bytes = 1 << 40 }), message), false, new(collective.OutOfStepError)},
		"operation":       {encoded(with(func(h *transport.Header) { h.Op.Seq = 2 }), message), false, new(collective.OutOfStepError)},
		"a grant too much": {
			encoded(transport.Header{Op: collective.Op{Kind: kindGrant}, Bytes: 1 << 63}, nil), false, transport.ErrCorrupt,
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			tr, far := half(t, Config{Checksum: c.checksum})
			tr.Mark(op)
			require.NoError(t, far.send(&outgoing{body: c.frame}))
			err := tr.Recv(1, make([]byte, len(message)))
			requirePeer(t, err, 1)
			require.ErrorContains(t, err, "barrier")
			if oos := new(collective.OutOfStepError); errors.As(c.want, &oos) {
				require.ErrorAs(t, err, &oos)
			} else {
				require.ErrorIs(t, err, c.want)
			}
			require.Equal(t, err, tr.Send(1, message))
		})
	}
}

// TestPiecesMustFit sends the first bytes of a message rightly, and then something else.
func TestPiecesMustFit(t *testing.T) {
	op := collective.Op{Kind: collective.OpAllReduce, Seq: 3}
	message := []byte("a message")
	good := transport.Header{Op: op, Bytes: uint64(len(message)), Number: 1}
	with := func(change func(h *transport.Header)) transport.Header { h := good; change(&h); return h }
	cases := map[string]struct {
		second []byte
		want   error
	}{
		"the rest":             {encoded(good, message[4:]), nil},
		"too much":             {encoded(good, message[3:]), transport.ErrCorrupt},
		"nothing":              {encoded(good, nil), transport.ErrCorrupt},
		"the next message":     {encoded(with(func(h *transport.Header) { h.Number = 2 }), message[4:]), transport.ErrCorrupt},
		"no frame":             {message[4:], transport.ErrCorrupt},
		"of another length":    {encoded(with(func(h *transport.Header) { h.Bytes++ }), message[4:]), new(collective.OutOfStepError)},
		"of another operation": {encoded(with(func(h *transport.Header) { h.Op.Seq++ }), message[4:]), new(collective.OutOfStepError)},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			tr, far := half(t, Config{})
			tr.Mark(op)
			require.NoError(t, far.send(&outgoing{body: encoded(good, message[:4])}))
			require.NoError(t, far.send(&outgoing{body: c.second}))
			got := make([]byte, len(message))
			err := tr.Recv(1, got)
			switch oos := new(collective.OutOfStepError); {
			case c.want == nil:
				require.NoError(t, err)
				require.Equal(t, message, got)
			case errors.As(c.want, &oos):
				requirePeer(t, err, 1)
				require.ErrorAs(t, err, &oos)
			default:
				requirePeer(t, err, 1)
				require.ErrorIs(t, err, c.want)
			}
		})
	}
}

func TestAnOversizedMessageIsRefused(t *testing.T) {
	tr, far := half(t, Config{})
	require.Error(t, far.send(&outgoing{body: make([]byte, messageBytes+1)}))
	requirePeer(t, tr.Recv(1, make([]byte, 1)), 1)

	// A client that ignores the limit is stopped by the acceptor's.
	listeners, addrs := listenAll(t, 1, Config{})
	cc, err := grpc.NewClient("passthrough:///"+addrs[0], grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(rawCodec{}), grpc.MaxCallSendMsgSize(1<<30)))
	require.NoError(t, err)
	defer cc.Close()
	s, err := cc.NewStream(t.Context(), &streamDesc, methodName)
	require.NoError(t, err)
	require.NoError(t, s.SendMsg(&outgoing{body: make([]byte, 2*messageBytes)}))
	require.Error(t, s.RecvMsg(&incoming{}))
	require.NoError(t, listeners[0].Close())
}

// TestTooMuchAheadIsRefused: a peer that ignores its allowance cannot fill this rank's memory.
func TestTooMuchAheadIsRefused(t *testing.T) {
	tr, far := half(t, Config{})
	op := collective.Op{Kind: collective.OpAllReduce, Seq: 1}
	tr.Mark(op)
	piece := make([]byte, pieceBytes)
	for n := uint32(1); ; n++ {
		require.LessOrEqual(t, int(n), 2*aheadBytes/pieceBytes)
		if far.send(&outgoing{body: encoded(transport.Header{Op: op, Bytes: pieceBytes, Number: n}, piece)}) != nil {
			break
		}
		select {
		case <-tr.peers[1].link.done:
		case <-time.After(time.Millisecond):
			continue
		}
		break
	}
	<-tr.peers[1].link.done
	require.ErrorIs(t, tr.peers[1].link.in.failure(), transport.ErrCorrupt)
	require.LessOrEqual(t, tr.peers[1].link.in.held, aheadBytes+pieceBytes)
}

// TestASlowReaderIsWaitedFor: a sender waits without filling its peer's memory, and an abort ends that wait.
func TestASlowReaderIsWaitedFor(t *testing.T) {
	transports := form(t, 2, Config{})
	defer transports[0].Close()
	defer transports[1].Close()
	sent := make(chan error, 1)
	b := make([]byte, 4*aheadBytes)
	go func() { sent <- transports[0].Send(1, b) }()
	in := transports[1].(*group).peers[0].link.in
	full := func() bool { in.mu.Lock(); defer in.mu.Unlock(); return in.held > aheadBytes-pieceBytes }
	require.Eventually(t, full, patience, time.Millisecond)
	got := make([]byte, len(b))
	require.NoError(t, transports[1].Recv(0, got))
	require.NoError(t, <-sent)

	go func() { sent <- transports[0].Send(1, b) }()
	require.Eventually(t, full, patience, time.Millisecond)
	cause := errors.New("enough")
	transports[0].Abort(cause)
	require.ErrorIs(t, <-sent, cause)
	clear(b) // nothing refers to it any more: the race detector would say so
}

// TestTheFirstFailureIsBlamed cuts rank 2 off from rank 1 without a goodbye. Rank 0 hears of it from rank 1 alone.
func TestTheFirstFailureIsBlamed(t *testing.T) {
	transports := form(t, 3, Config{})
	errs := make([]error, 2)
	var wg sync.WaitGroup
	for r := range errs {
		wg.Go(func() { errs[r] = transports[r].Recv(r+1, make([]byte, 1)) })
	}
	transports[2].(*group).peers[1].link.socket.kill()
	wg.Wait()
	for r, err := range errs {
		requirePeer(t, err, 2)
		require.ErrorIs(t, err, collective.ErrPeerLost, "rank %d", r)
	}
	require.ErrorContains(t, errs[0], "reported by rank 1")
	for _, tr := range transports {
		require.NoError(t, tr.Close())
	}
}

func TestAGoodbyeSaysWhy(t *testing.T) {
	for from := range 2 { // the dialer and the acceptor
		transports := form(t, 2, Config{})
		transports[from].Abort(errors.New("the disk is full"))
		err := transports[1-from].Recv(from, make([]byte, 5))
		require.ErrorIs(t, err, collective.ErrPeerLeft)
		require.ErrorContains(t, err, "the disk is full")
		require.NoError(t, transports[0].Close())
		require.NoError(t, transports[1].Close())
	}
}

func TestAMoveBlamesNobody(t *testing.T) {
	transports := form(t, 2, Config{})
	transports[0].Abort(collective.ErrGenerationChanged)
	require.ErrorIs(t, transports[1].Recv(0, make([]byte, 5)), collective.ErrPeerMoved)
	require.NoError(t, transports[0].Close())
	require.NoError(t, transports[1].Close())
}

// TestWhatWasSentArrivesAfterItsSenderLeft: Close loses nothing, even if the peer asks for it much later.
func TestWhatWasSentArrivesAfterItsSenderLeft(t *testing.T) {
	for from := range 2 {
		transports := form(t, 2, Config{Checksum: true})
		b := make([]byte, aheadBytes-transport.HeaderBytes)
		for i := range b {
			b[i] = byte(i >> 8)
		}
		require.NoError(t, transports[from].Send(1-from, b))
		require.NoError(t, transports[from].Close())
		<-transports[1-from].(*group).peers[from].link.done
		got := make([]byte, len(b))
		require.NoError(t, transports[1-from].Recv(from, got))
		require.Equal(t, b, got)
		require.ErrorIs(t, transports[1-from].Recv(from, got), collective.ErrPeerLeft)
		require.NoError(t, transports[1-from].Close())
	}
}

// strangers are clients that are none of ours. Each returns when it was turned away.
var strangers = map[string]func(t *testing.T, addr string){
	"http/1": func(t *testing.T, addr string) { pour(t, addr, []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n")) },
	"a preface alone": func(t *testing.T, addr string) {
		pour(t, addr, []byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"))
	},
	"noise": func(t *testing.T, addr string) {
		rng := rand.New(rand.NewPCG(1, 2))
		for range 20 {
			b := []byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
			for range rng.IntN(300) {
				b = append(b, byte(rng.Uint32()))
			}
			pour(t, addr, b)
			pour(t, addr, b[24:])
		}
	},
	"another service": func(t *testing.T, addr string) {
		require.Error(t, call(t, addr, "/other.Service/Method", nil))
	},
	"no hello": func(t *testing.T, addr string) { require.Error(t, call(t, addr, methodName, []byte("hello?"))) },
	"a frame first": func(t *testing.T, addr string) {
		require.Error(t, call(t, addr, methodName, encoded(transport.Header{Number: 1}, nil)))
	},
}

func pour(t *testing.T, addr string, b []byte) {
	c, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	defer c.Close()
	_, _ = c.Write(b)
	_ = c.(*net.TCPConn).CloseWrite()
	_, _ = io.Copy(io.Discard, c) // until the listener closes it
}

func call(t *testing.T, addr, method string, message []byte) error {
	cc, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(rawCodec{})))
	require.NoError(t, err)
	defer cc.Close()
	s, err := cc.NewStream(t.Context(), &streamDesc, method)
	require.NoError(t, err)
	_ = s.SendMsg(&outgoing{body: message})
	for {
		var m incoming
		if err := s.RecvMsg(&m); err != nil {
			return err
		}
		_ = m.data.Close()
	}
}

func TestStrangersChangeNothing(t *testing.T) {
	cfg := Config{Admission: mesh.Admission{MaxPending: 8, HandshakeTimeout: 200 * time.Millisecond}, Logger: slog.New(slog.DiscardHandler)}
	for name, stranger := range strangers {
		t.Run(name, func(t *testing.T) {
			listeners, addrs := listenAll(t, 2, cfg)
			stranger(t, addrs[0])
			transports := make([]collective.Transport, 2)
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			var wg sync.WaitGroup
			for r, l := range listeners {
				wg.Go(func() {
					var err error
					if transports[r], err = l.Connect(ctx, id(r), addrs); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			require.False(t, t.Failed())
			stranger(t, addrs[0])
			message := []byte("still here")
			require.NoError(t, transports[1].Send(0, message))
			got := make([]byte, len(message))
			require.NoError(t, transports[0].Recv(1, got))
			require.Equal(t, message, got)
			for _, tr := range transports {
				require.NoError(t, tr.Close())
			}
		})
	}
}

// TestSilentClientsKeepNobodyOut: connections that open no stream displace one another, not a peer.
func TestSilentClientsKeepNobodyOut(t *testing.T) {
	const clients, most = 20, 4
	listeners, addrs := listenAll(t, 2, Config{Admission: mesh.Admission{MaxPending: most, HandshakeTimeout: patience}})
	closed := make(chan struct{}, clients)
	var reading sync.WaitGroup
	defer reading.Wait()
	for range clients {
		c, err := net.Dial("tcp", addrs[0])
		require.NoError(t, err)
		defer c.Close()
		reading.Go(func() {
			_, _ = io.Copy(io.Discard, c) // gRPC may send its settings first
			closed <- struct{}{}
		})
	}
	for range clients - most {
		<-closed // displaced
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var wg sync.WaitGroup
	for r, l := range listeners {
		wg.Go(func() {
			tr, err := l.Connect(ctx, id(r), addrs)
			if err != nil {
				t.Error(err)
				return
			}
			tr.Close()
		})
	}
	wg.Wait()
	require.NoError(t, listeners[0].Close())
}

// TestWrongPeersAreRefused: mesh's rules hold through the streams, and its reasons reach the dialer.
func TestWrongPeersAreRefused(t *testing.T) {
	listeners, addrs := listenAll(t, 2, Config{Job: "test"})
	listeners[0].Fence(3)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	_, err := listeners[1].Connect(ctx, id(1), addrs)
	require.ErrorIs(t, err, collective.ErrGenerationChanged)
	require.ErrorContains(t, err, "generation 3 is due")

	other, err := Listen("127.0.0.1:0", Config{})
	require.NoError(t, err)
	defer other.Close()
	_, err = other.Connect(ctx, transport.ID{Job: "another", Generation: 3, Rank: 1}, []string{addrs[0], other.Addr()})
	requirePeer(t, err, 0)
	require.ErrorContains(t, err, "this is job 'test', not 'another'")

	summing, err := Listen("127.0.0.1:0", Config{Checksum: true})
	require.NoError(t, err)
	defer summing.Close()
	_, err = summing.Connect(ctx, transport.ID{Job: "test", Generation: 3, Rank: 1}, []string{addrs[0], summing.Addr()})
	require.ErrorContains(t, err, "checksums")
}
