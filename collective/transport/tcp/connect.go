package tcp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"github.com/farandole-ml/farandole/collective"
	"golang.org/x/sync/errgroup"
)

// The pause between dials of one peer doubles from firstPause to lastPause.
const (
	firstPause = 2 * time.Millisecond
	lastPause  = 250 * time.Millisecond
)

type seat int

const (
	free    seat = iota
	claimed      // in handshake
	taken
)

// forming is a mesh under construction. The Listener's mu guards seats and over.
type forming struct {
	id      ID
	world   int
	seats   []seat
	over    bool
	arrived chan arrival
	cancel  context.CancelCauseFunc
}

type arrival struct {
	from int
	conn *net.TCPConn
}

// Connect forms the group of id.Generation; addrs are its ranks' data-plane addresses. It dials the lower ranks,
// again and again while they are not up, and waits for the higher ones, until ctx ends. The error names a rank and
// its address; it is collective.ErrGenerationChanged when the generation is fenced, here or at a peer.
// A second Connect for a generation that formed or is being formed is refused.
func (l *Listener) Connect(ctx context.Context, id ID, addrs []string) (collective.Transport, error) {
	if id.Rank < 0 || id.Rank >= len(addrs) || len(addrs) > maxWorld || len(id.Job) > maxJobBytes {
		return nil, fmt.Errorf("tcp: connect: rank %d of %d, job name of %d bytes: out of range", id.Rank, len(addrs), len(id.Job))
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	f := &forming{id: id, world: len(addrs), seats: make([]seat, len(addrs)), arrived: make(chan arrival, len(addrs)), cancel: cancel}
	if err := l.begin(f); err != nil {
		return nil, fmt.Errorf("tcp: connect: %w", err)
	}
	conns := make([]*net.TCPConn, len(addrs))
	tasks, ctx := errgroup.WithContext(ctx)
	for to := range id.Rank {
		tasks.Go(func() (err error) {
			conns[to], err = l.dial(ctx, f, to, addrs[to])
			return err
		})
	}
	tasks.Go(func() error { return f.gather(ctx, conns, addrs) })
	err := tasks.Wait()
	l.end(f, err == nil)
	if err == nil {
		var t *transport
		if t, err = newTransport(id, conns, l.cfg); err == nil {
			return t, nil
		}
	}
	for _, c := range conns {
		if c != nil {
			c.Close()
		}
	}
	return nil, fmt.Errorf("tcp: generation %d: %w", id.Generation, err)
}

func (l *Listener) begin(f *forming) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	gen := f.id.Generation
	switch {
	case l.closed:
		return net.ErrClosed
	case gen == 0:
		return errors.New("generation 0 is no membership: count from 1")
	case gen < l.fence:
		return staleError(gen, l.fence)
	case l.job != "" && f.id.Job != l.job:
		return fmt.Errorf("this listener serves job %q, not %q", l.job, f.id.Job)
	case l.forming[gen] != nil || gen == l.formed:
		return fmt.Errorf("generation %d was formed here already", gen)
	}
	l.job = f.id.Job
	l.forming[gen] = f
	l.announce()
	return nil
}

// end takes f out of the Listener and closes connections that came too late.
func (l *Listener) end(f *forming, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f.over = true
	delete(l.forming, f.id.Generation)
	if ok {
		l.formed = max(l.formed, f.id.Generation)
	}
	l.announce()
	for {
		select {
		case a := <-f.arrived:
			a.conn.Close()
		default:
			return
		}
	}
}

// gather waits for the higher ranks.
func (f *forming) gather(ctx context.Context, conns []*net.TCPConn, addrs []string) error {
	for missing := f.world - f.id.Rank - 1; missing > 0; missing-- {
		select {
		case a := <-f.arrived:
			conns[a.from] = a.conn
		case <-ctx.Done():
			r := f.id.Rank + 1 + slices.Index(conns[f.id.Rank+1:], nil)
			return &collective.PeerError{Rank: r, Op: "connect", Err: fmt.Errorf("%s has not connected: %w", addrs[r], context.Cause(ctx))}
		}
	}
	return nil
}

// dial connects to rank to, trying again until ctx ends or the peer refuses for good.
func (l *Listener) dial(ctx context.Context, f *forming, to int, addr string) (*net.TCPConn, error) {
	hello := hello{version, f.id.Job, f.id.Generation, f.id.Rank, to, f.world, l.cfg.Checksum}
	pause := firstPause
	for {
		c, err := l.dialOnce(ctx, hello, addr)
		if err == nil {
			return c, nil
		}
		if errors.Is(err, errRefused) || errors.Is(err, collective.ErrGenerationChanged) {
			return nil, &collective.PeerError{Rank: to, Op: "connect", Err: fmt.Errorf("%s: %w", addr, err)}
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, &collective.PeerError{Rank: to, Op: "connect", Err: fmt.Errorf("%s: %w (last error: %s)", addr, context.Cause(ctx), err.Error())}
		}
		pause = min(2*pause, lastPause)
	}
}

func (l *Listener) dialOnce(ctx context.Context, h hello, addr string) (*net.TCPConn, error) {
	dialer := net.Dialer{Timeout: l.cfg.HandshakeTimeout}
	conn, err := dialer.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	c := conn.(*net.TCPConn)
	stop := context.AfterFunc(ctx, func() { c.Close() })
	err = l.introduce(c, h)
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// introduce does the dialer's side of the handshake.
func (l *Listener) introduce(c *net.TCPConn, h hello) error {
	// The peer may park the connection, so the reply takes longer than a handshake.
	_ = c.SetDeadline(time.Now().Add(l.cfg.HandshakeTimeout + l.cfg.ParkTimeout))
	if _, err := c.Write(h.append(nil)); err != nil {
		return err
	}
	r, err := readReply(c)
	if err != nil {
		return err
	}
	if err := r.err(h.generation); err != nil {
		return err
	}
	if _, err := c.Write([]byte(confirm)); err != nil {
		return err
	}
	return c.SetDeadline(time.Time{})
}
