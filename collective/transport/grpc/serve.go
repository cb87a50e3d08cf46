package grpc

import (
	"net"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/experimental"
	"google.golang.org/grpc/keepalive"
	grpcpeer "google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// server accepts streams; for mesh it is a net.Listener whose connections they are.
type server struct {
	cfg    Config
	socket net.Listener
	rpc    *grpc.Server
	links  chan *link
	ending chan struct{} // closed by Close
	served chan struct{} // closed when the socket is not accepted from any more

	mu     sync.Mutex
	closed bool
	fresh  []*socket // connections without a stream, oldest first
}

func listen(addr string, cfg Config) (*server, error) {
	socket, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	s := &server{cfg: cfg, socket: socket, links: make(chan *link), ending: make(chan struct{}), served: make(chan struct{})}
	options := []grpc.ServerOption{
		grpc.ForceServerCodecV2(rawCodec{}),
		grpc.StatsHandler(watcher{}),
		grpc.InitialWindowSize(windowBytes), grpc.InitialConnWindowSize(windowBytes),
		grpc.ReadBufferSize(ioBytes), grpc.WriteBufferSize(ioBytes), experimental.BufferPool(&slabPool),
		grpc.MaxRecvMsgSize(messageBytes), grpc.MaxSendMsgSize(messageBytes),
		grpc.MaxConcurrentStreams(1), grpc.MaxHeaderListSize(8 << 10),
		grpc.ConnectionTimeout(cfg.HandshakeTimeout),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: leastLiveness / 2, PermitWithoutStream: true}),
	}
	if cfg.Liveness > 0 {
		options = append(options, grpc.KeepaliveParams(keepalive.ServerParameters{Time: cfg.Liveness, Timeout: cfg.Liveness}))
	}
	s.rpc = grpc.NewServer(options...)
	s.rpc.RegisterService(&grpc.ServiceDesc{
		ServiceName: serviceName, HandlerType: (*any)(nil),
		Streams: []grpc.StreamDesc{{StreamName: streamName, ClientStreams: true, ServerStreams: true, Handler: s.pair}},
	}, nil)
	go func() {
		defer close(s.served)
		_ = s.rpc.Serve(fresh{socket, s}) // ends when the socket is closed; mesh tells why
	}()
	return s, nil
}

// fresh enrolls accepted connections.
type fresh struct {
	net.Listener
	server *server
}

// Accept implements net.Listener.
func (f fresh) Accept() (net.Conn, error) {
	c, err := f.Listener.Accept()
	if err != nil {
		return nil, err
	}
	k := newSocket(c)
	f.server.enroll(k)
	return k, nil
}

// enroll counts k as fresh, for HandshakeTimeout at most, and displaces the oldest when there are too many.
func (s *server) enroll(k *socket) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		k.kill()
		return
	}
	if len(s.fresh) >= s.cfg.MaxPending {
		s.fresh[0].kill()
		s.fresh = slices.Delete(s.fresh, 0, 1)
	}
	s.fresh = append(s.fresh, k)
	k.late = time.AfterFunc(s.cfg.HandshakeTimeout, func() {
		if s.expel(k) {
			k.kill()
		}
	})
}

// expel ends k's time as fresh; false means that it was displaced.
func (s *server) expel(k *socket) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.Index(s.fresh, k)
	if i < 0 {
		return false
	}
	s.fresh = slices.Delete(s.fresh, i, i+1)
	k.late.Stop()
	return true
}

// pair serves one stream: it hands it to whoever accepts and then receives for it until it ends.
func (s *server) pair(_ any, stream grpc.ServerStream) error {
	p, _ := grpcpeer.FromContext(stream.Context())
	a, ok := p.Addr.(peerAddr)
	if !ok || !s.expel(a.socket) {
		return status.Error(codes.Unavailable, "too many connections in handshake")
	}
	l := newLink(stream, a.socket)
	select {
	case s.links <- l:
		l.run()
		return nil
	case <-s.ending:
		return status.Error(codes.Unavailable, "shutting down")
	}
}

// Accept implements net.Listener.
func (s *server) Accept() (net.Conn, error) {
	select {
	case l := <-s.links:
		return l, nil
	case <-s.ending:
		return nil, net.ErrClosed
	}
}

// Addr implements net.Listener.
func (s *server) Addr() net.Addr { return s.socket.Addr() }

// Close implements net.Listener. Streams that were accepted are not touched.
func (s *server) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return net.ErrClosed
	}
	s.closed = true
	close(s.ending)
	for _, k := range s.fresh {
		k.late.Stop()
		k.kill()
	}
	s.fresh = nil
	s.mu.Unlock()
	err := s.socket.Close()
	<-s.served
	return err
}
