package grpc

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"google.golang.org/grpc/mem"

	"github.com/farandole-ml/farandole/collective"
	"github.com/farandole-ml/farandole/collective/transport"
)

// stream is what both ends of a gRPC stream can do.
type stream interface {
	SendMsg(m any) error
	RecvMsg(m any) error
}

// linger is how long the last words to a peer may take to reach it, after a failure; after a Close without one, before which
// comes what the peer still needs of the last operation, it is closing.
const (
	linger  = 100 * time.Millisecond
	closing = 2 * time.Second
)

// link is one end of a gRPC stream, alone on its connection. For the handshake it is a net.Conn; afterwards it carries
// frames. One goroutine, the one in run, receives all the time, so that neither a goodbye nor a grant waits behind data
// that nobody has asked for yet, and nothing is lost that a peer sent before it went.
type link struct {
	stream    stream
	socket    *socket
	hangUp    func() // closes the dialer's side; nil on the acceptor's
	halfClose func() // half-closes the dialer's side; nil on the acceptor's

	out   chan struct{} // a lock on sending; no Mutex, because its holder may wait for the network
	lease *lease
	allow allowance
	in    *inbox
	rest  *mem.Reader // what Read has not given yet
	limit deadline    // of Read

	done    chan struct{} // closed when nothing more will be received
	goodbye []byte        // the peer's message, if it said goodbye; valid after done
}

func newLink(s stream, k *socket) *link {
	l := &link{
		stream: s, socket: k,
		out:   make(chan struct{}, 1),
		lease: newLease(),
		in:    newInbox(aheadBytes),
		done:  make(chan struct{}),
	}
	l.allow.init()
	return l
}

// run receives until the stream ends.
func (l *link) run() {
	err := l.receive()
	l.in.end(err)
	close(l.done)
	if l.hangUp != nil {
		l.hangUp()
	}
}

func (l *link) receive() error {
	for {
		var m incoming
		if err := l.stream.RecvMsg(&m); err != nil {
			return fmt.Errorf("%w: %w", collective.ErrPeerLost, ended(err))
		}
		f, err := parse(m.data)
		if err == nil {
			switch {
			case f.raw:
				err = l.in.put(f)
			case f.Op.Kind == kindGrant:
				_ = f.data.Close()
				err = l.allow.give(f.Bytes)
			case f.Op.Kind == transport.KindGoodbye:
				l.goodbye = readGoodbye(f)
				return collective.ErrPeerLeft
			default:
				err = l.in.put(f)
			}
		}
		if err != nil {
			return err
		}
	}
}

// parse takes over m.
func parse(m *mem.Reader) (frame, error) {
	var b [transport.HeaderBytes]byte
	pieces, _ := m.Peek(min(transport.HeaderBytes, m.Remaining()), nil)
	n := 0
	for _, p := range pieces {
		n += copy(b[n:], p)
	}
	if !transport.Begins(b[:n], frameMagic) {
		return frame{raw: true, data: m}, nil
	}
	_, _ = m.Discard(transport.HeaderBytes)
	h, err := transport.DecodeHeader(&b, frameMagic)
	if err != nil {
		_ = m.Close()
		return frame{}, err
	}
	return frame{Header: h, data: m}, nil
}

// send sends one message when it is its turn. Once the connection has ended it returns an error.
func (l *link) send(m *outgoing) error {
	l.out <- struct{}{}
	defer func() { <-l.out }()
	return l.stream.SendMsg(m)
}

// leave ends the link after last words, if the peer takes them within limit. Nothing of the link is left when it returns.
func (l *link) leave(words []byte, limit time.Duration) {
	late := time.AfterFunc(limit, l.socket.kill)
	defer late.Stop()
	l.out <- struct{}{}
	_ = l.stream.SendMsg(&outgoing{head: words}) // a peer that does not get them sees the connection end
	if l.halfClose != nil {
		l.halfClose()
	}
	<-l.out
	<-l.done
	<-l.socket.ended
	l.in.drop()
}

// Read implements net.Conn, for the handshake.
func (l *link) Read(b []byte) (int, error) {
	for l.rest == nil || l.rest.Remaining() == 0 {
		f, err := l.in.take(nil, l.limit.passed())
		switch {
		case errors.Is(err, errExpired):
			return 0, os.ErrDeadlineExceeded
		case err != nil:
			return 0, fmt.Errorf("%w: %w", io.ErrUnexpectedEOF, err)
		case !f.raw:
			_ = f.data.Close()
			return 0, fmt.Errorf("%w: a frame before the handshake", transport.ErrCorrupt)
		}
		l.rest = f.data
	}
	return l.rest.Read(b)
}

// Write implements net.Conn, for the handshake. Its messages fit into gRPC's queue: it needs no deadline.
func (l *link) Write(b []byte) (int, error) {
	if err := l.send(&outgoing{body: b}); err != nil {
		return 0, ended(err)
	}
	return len(b), nil
}

// Close implements net.Conn, for a handshake that came to nothing. What the acceptor wrote last still reaches a
// dialer that reads it.
func (l *link) Close() error {
	if l.hangUp != nil {
		l.hangUp()
		<-l.done
		return nil
	}
	time.AfterFunc(linger, l.socket.kill)
	return nil
}

func (l *link) LocalAddr() net.Addr  { return l.socket.LocalAddr() }
func (l *link) RemoteAddr() net.Addr { return l.socket.Conn.RemoteAddr() }

func (l *link) SetDeadline(t time.Time) error     { return l.SetReadDeadline(t) }
func (l *link) SetWriteDeadline(time.Time) error  { return nil }
func (l *link) SetReadDeadline(t time.Time) error { l.limit.set(t); return nil }

// deadline is a time limit for the reads that begin after it was set.
type deadline struct {
	mu    sync.Mutex
	timer *time.Timer
	ch    chan struct{} // nil: none
}

func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
		d.timer, d.ch = nil, nil
	}
	if !t.IsZero() {
		ch := make(chan struct{})
		d.timer, d.ch = time.AfterFunc(time.Until(t), func() { close(ch) }), ch
	}
}

func (d *deadline) passed() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.ch
}
