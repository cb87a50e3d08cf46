package grpc

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/experimental"
	"google.golang.org/grpc/keepalive"

	"github.com/farandole-ml/farandole/collective/transport"
)

const (
	serviceName = "farandole.collective.DataPlane"
	streamName  = "Pair"
	methodName  = "/" + serviceName + "/" + streamName

	leastLiveness = 10 * time.Second // gRPC's: a client pings no more often

	// windowBytes is the flow-control window of a connection and its stream. It is fixed, so that gRPC does not measure
	// the link by extra pings, and larger than aheadBytes, so that it never delays what the peer has asked for.
	windowBytes = 2 * aheadBytes
	// ioBytes is how much gRPC gathers for one system call.
	ioBytes = 256 << 10
	// messageBytes is the largest message that is accepted.
	messageBytes = transport.HeaderBytes + pieceBytes
)

var streamDesc = grpc.StreamDesc{StreamName: streamName, ClientStreams: true, ServerStreams: true}

// network is mesh's view of this package: connections are streams.
type network struct{ cfg Config }

// Name implements mesh.Network.
func (network) Name() string { return "grpc" }

// Listen implements mesh.Network.
func (n network) Listen(addr string) (net.Listener, error) { return listen(addr, n.cfg) }

// Trust implements mesh.Network.
func (network) Trust(net.Conn) error { return nil }

// Dial implements mesh.Network.
func (n network) Dial(ctx context.Context, addr string) (net.Conn, error) {
	var dialer net.Dialer
	c, err := dialer.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	k := newSocket(c)
	l, err := n.open(ctx, k, addr)
	if err != nil {
		k.kill()
		return nil, err
	}
	go l.run() // ends with the stream, which the link's owner ends by Close or leave, and waits for
	return l, nil
}

// open speaks HTTP/2 over k and opens the stream.
func (n network) open(ctx context.Context, k *socket, addr string) (*link, error) {
	cc, err := grpc.NewClient("passthrough:///"+addr, n.dialOptions(k)...)
	if err != nil {
		return nil, err
	}
	sctx, cancel := context.WithCancel(context.Background())
	stop := context.AfterFunc(ctx, cancel)
	s, err := cc.NewStream(sctx, &streamDesc, methodName)
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	var once sync.Once
	hangUp := func() { once.Do(func() { cancel(); _ = cc.Close() }) }
	if err != nil {
		hangUp()
		return nil, ended(err)
	}
	l := newLink(s, k)
	l.hangUp = hangUp
	l.halfClose = func() { _ = s.CloseSend() }
	return l, nil
}

func (n network) dialOptions(k *socket) []grpc.DialOption {
	var mu sync.Mutex
	used := false
	options := []grpc.DialOption{
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) {
			mu.Lock()
			defer mu.Unlock()
			if used {
				return nil, errors.New("a link is made once")
			}
			used = true
			return k, nil
		}),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithStatsHandler(watcher{}),
		grpc.WithDisableRetry(), // or sent messages would be kept for another try
		grpc.WithDisableServiceConfig(),
		grpc.WithIdleTimeout(0),
		grpc.WithInitialWindowSize(windowBytes), grpc.WithInitialConnWindowSize(windowBytes),
		grpc.WithReadBufferSize(ioBytes), grpc.WithWriteBufferSize(ioBytes), experimental.WithBufferPool(&slabPool),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(rawCodec{}),
			grpc.MaxCallRecvMsgSize(messageBytes), grpc.MaxCallSendMsgSize(messageBytes)),
	}
	if n.cfg.Liveness > 0 {
		options = append(options, grpc.WithKeepaliveParams(keepalive.ClientParameters{
			Time: n.cfg.Liveness, Timeout: n.cfg.Liveness, PermitWithoutStream: true,
		}))
	}
	return options
}
