package grpc

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"

	"github.com/farandole-ml/farandole/collective/transport"
)

// socket is the connection below one HTTP/2 connection. gRPC owns it; the wrapper lets a link find it and end it.
type socket struct {
	net.Conn
	ended chan struct{} // closed when gRPC is done with the connection and with all buffers sent over it
	once  sync.Once
	late  *time.Timer // of the server, while no stream has been opened
}

func newSocket(c net.Conn) *socket {
	if tc, ok := c.(*net.TCPConn); ok && transport.SameHost(c) {
		_ = transport.TuneHere(tc) // it works without, only slower
	}
	return &socket{Conn: c, ended: make(chan struct{})}
}

// kill ends the connection; whatever waits for it returns.
func (k *socket) kill() { _ = k.Conn.Close() }

// RemoteAddr implements net.Conn. gRPC hands the address on to where the stream is served.
func (k *socket) RemoteAddr() net.Addr { return peerAddr{k.Conn.RemoteAddr(), k} }

type peerAddr struct {
	net.Addr
	socket *socket
}

// watcher learns from gRPC when it is done with a connection: its writer has ended, so no buffer is read any more.
type watcher struct{}

type socketKey struct{}

// TagConn implements stats.Handler.
func (watcher) TagConn(ctx context.Context, info *stats.ConnTagInfo) context.Context {
	if a, ok := info.RemoteAddr.(peerAddr); ok {
		return context.WithValue(ctx, socketKey{}, a.socket)
	}
	return ctx
}

// HandleConn implements stats.Handler.
func (watcher) HandleConn(ctx context.Context, s stats.ConnStats) {
	if _, ok := s.(*stats.ConnEnd); !ok {
		return
	}
	if k, ok := ctx.Value(socketKey{}).(*socket); ok {
		k.once.Do(func() { close(k.ended) })
	}
}

// TagRPC implements stats.Handler.
func (watcher) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }

// HandleRPC implements stats.Handler.
func (watcher) HandleRPC(context.Context, stats.RPCStats) {}

// ended makes gRPC's errors say what they mean here.
func ended(err error) error {
	if s, ok := status.FromError(err); ok {
		return errors.New(s.Message())
	}
	return transport.Ended(err)
}
