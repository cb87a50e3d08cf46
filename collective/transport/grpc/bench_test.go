package grpc

import (
	"net"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/experimental"

	"github.com/farandole-ml/farandole/collective/transport"
)

// BenchmarkBareStream moves 64 MB each way over a stream of gRPC's with the transport's settings, and does nothing with
// them: two ranks' all-reduce of 64 MB has to do that and more.
func BenchmarkBareStream(b *testing.B) {
	const total = 64 << 20
	exchange := func(s stream) error {
		sent := make(chan error, 1)
		go func() {
			body, lease := make([]byte, pieceBytes), newLease()
			for range total / pieceBytes {
				if err := s.SendMsg(&outgoing{head: make([]byte, transport.HeaderBytes), body: body, lease: lease}); err != nil {
					sent <- err
					return
				}
			}
			sent <- nil
		}()
		for range total / pieceBytes {
			var m incoming
			if err := s.RecvMsg(&m); err != nil {
				return err
			}
			_ = m.data.Close()
		}
		return <-sent
	}
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(b, err)
	server := grpc.NewServer(grpc.ForceServerCodecV2(rawCodec{}), experimental.BufferPool(&slabPool),
		grpc.InitialWindowSize(windowBytes), grpc.InitialConnWindowSize(windowBytes),
		grpc.ReadBufferSize(ioBytes), grpc.WriteBufferSize(ioBytes), grpc.MaxRecvMsgSize(messageBytes),
		grpc.UnknownServiceHandler(func(_ any, s grpc.ServerStream) error {
			for exchange(s) == nil { // until the client has gone
			}
			return nil
		}))
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = server.Serve(here{lis})
	}()
	defer func() { server.Stop(); <-served }()
	k, err := net.Dial("tcp", lis.Addr().String())
	require.NoError(b, err)
	cc, err := grpc.NewClient("passthrough:///bare", network{cfg: Config{}.withDefaults()}.dialOptions(newSocket(k))...)
	require.NoError(b, err)
	defer cc.Close()
	s, err := cc.NewStream(b.Context(), &streamDesc, methodName)
	require.NoError(b, err)
	b.SetBytes(total)
	for b.Loop() {
		require.NoError(b, exchange(s))
	}
}

// here tunes what it accepts as the transport's sockets are.
type here struct{ net.Listener }

func (h here) Accept() (net.Conn, error) {
	c, err := h.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return newSocket(c), nil
}
