package auto

import (
	"context"
	"net"
	"sync"

	"github.com/farandole-ml/farandole/collective/transport/mesh"
	"github.com/farandole-ml/farandole/collective/transport/tcp"
	"github.com/farandole-ml/farandole/collective/transport/uds"
)

// socketBytes is what the kernel holds of a unix socket.
const socketBytes = 1 << 20

// network is TCP and, on one host, unix sockets, for package mesh.
type network struct {
	cfg       Config
	tcp, unix mesh.Network
	own       address // after Listen
}

func newNetwork(cfg Config) *network {
	return &network{cfg: cfg, tcp: tcp.Network(), unix: uds.Network("uds", socketBytes)}
}

func (n *network) Name() string { return "auto" }

// Listen opens a door for each kind. A system without unix sockets of that kind does without.
func (n *network) Listen(addr string) (net.Listener, error) {
	far, err := n.tcp.Listen(addr)
	if err != nil {
		return nil, err
	}
	n.own = address{tcp: far.Addr().String()}
	d := &doors{net: n, all: []net.Listener{far}, came: make(chan arrival), closed: make(chan struct{})}
	if n.cfg.Host != "" {
		n.own.host = n.cfg.Host
		near, err := n.unix.Listen("")
		switch {
		case err == nil:
			d.all = append(d.all, near)
			n.own.unix = near.Addr().String()
		case n.cfg.Path == Unix:
			far.Close()
			return nil, err
		default:
			n.cfg.Logger.Warn("no unix sockets between workers", "err", err)
		}
	}
	for _, l := range d.all {
		d.accepting.Go(func() { d.accept(l) })
	}
	return d, nil
}

func (n *network) Dial(ctx context.Context, addr string) (net.Conn, error) {
	a, err := parseAddress(addr)
	if err != nil {
		return nil, err
	}
	if n.cfg.Path != TCP && a.host != "" && a.host == n.own.host && a.unix != "" && n.own.unix != "" {
		return n.unix.Dial(ctx, a.unix)
	}
	return n.tcp.Dial(ctx, a.tcp)
}

func (n *network) Trust(c net.Conn) error {
	if _, ok := c.(*net.UnixConn); ok {
		return n.unix.Trust(c)
	}
	return n.tcp.Trust(c)
}

// doors are listeners as one.
type doors struct {
	net       *network
	all       []net.Listener
	came      chan arrival
	closing   sync.Once
	closed    chan struct{}
	accepting sync.WaitGroup
}

type arrival struct {
	conn net.Conn
	err  error
}

func (d *doors) accept(l net.Listener) {
	for {
		c, err := l.Accept()
		select {
		case d.came <- arrival{c, err}:
		case <-d.closed:
			if err == nil {
				c.Close()
			}
			return
		}
	}
}

func (d *doors) Accept() (net.Conn, error) {
	select {
	case a := <-d.came:
		return a.conn, a.err
	case <-d.closed:
		return nil, net.ErrClosed
	}
}

func (d *doors) Close() (err error) {
	d.closing.Do(func() {
		close(d.closed)
		for _, l := range d.all {
			if e := l.Close(); err == nil {
				err = e
			}
		}
		d.accepting.Wait()
	})
	return err
}

// Addr is the TCP address; Listener.Addr has all.
func (d *doors) Addr() net.Addr { return d.all[0].Addr() }
