package mesh

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"github.com/farandole-ml/farandole/collective"
	"github.com/farandole-ml/farandole/collective/transport"
	"golang.org/x/sync/errgroup"
)

// The pause between dials of one peer doubles from firstPause to lastPause.
const (
	firstPause = 2 * time.Millisecond
	lastPause  = 250 * time.Millisecond
)

// seat is a higher rank's place.
type seat struct {
	claimed bool       // a connection for it is in handshake
	conns   []net.Conn // those that came
	streams int        // that are due; known from the first on
}

// forming is a mesh under construction. The Listener's mu guards seats and over.
type forming struct {
	id      transport.ID
	world   int
	seats   []seat
	over    bool
	arrived chan int // ranks with all their connections
	cancel  context.CancelCauseFunc
}

// Connect forms the mesh of id.Generation; addrs are its ranks' data-plane addresses. It dials the lower ranks,
// again and again while they are not up, and waits for the higher ones, until ctx ends. It gives the connections to each
// rank, none for this one; the caller owns them. The error names a rank and its address; it is
// collective.ErrGenerationChanged when the generation is fenced, here or at a peer.
// A second Connect for a generation that formed or is being formed is refused.
func (l *Listener) Connect(ctx context.Context, id transport.ID, addrs []string) ([][]net.Conn, error) {
	name := l.network.Name()
	if id.Rank < 0 || id.Rank >= len(addrs) || len(addrs) > maxWorld || len(id.Job) > maxJobBytes {
		return nil, fmt.Errorf("%s: connect: rank %d of %d, job name of %d bytes: out of range", name, id.Rank, len(addrs), len(id.Job))
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	f := &forming{id: id, world: len(addrs), seats: make([]seat, len(addrs)), arrived: make(chan int, len(addrs)), cancel: cancel}
	if err := l.begin(f); err != nil {
		return nil, fmt.Errorf("%s: connect: %w", name, err)
	}
	conns := make([][]net.Conn, len(addrs))
	tasks, ctx := errgroup.WithContext(ctx)
	for to := range id.Rank {
		tasks.Go(func() (err error) {
			conns[to], err = l.dialAll(ctx, f, to, addrs[to])
			return err
		})
	}
	tasks.Go(func() error { return f.gather(ctx, addrs) })
	err := tasks.Wait()
	l.end(f, conns, err == nil)
	if err != nil {
		for _, c := range slices.Concat(conns...) {
			c.Close()
		}
		return nil, fmt.Errorf("%s: generation %d: %w", name, id.Generation, err)
	}
	return conns, nil
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

// end takes f out of the Listener and adds the connections that came to those that were dialled.
func (l *Listener) end(f *forming, conns [][]net.Conn, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f.over = true
	delete(l.forming, f.id.Generation)
	if ok {
		l.formed = max(l.formed, f.id.Generation)
	}
	for r := f.id.Rank + 1; r < f.world; r++ {
		conns[r] = f.seats[r].conns
	}
	l.announce()
}

// gather waits for the higher ranks.
func (f *forming) gather(ctx context.Context, addrs []string) error {
	came := make([]bool, f.world)
	for missing := f.world - f.id.Rank - 1; missing > 0; missing-- {
		select {
		case r := <-f.arrived:
			came[r] = true
		case <-ctx.Done():
			r := f.id.Rank + 1 + slices.Index(came[f.id.Rank+1:], false)
			return &collective.PeerError{Rank: r, Op: "connect", Err: fmt.Errorf("%s has not connected: %w", addrs[r], context.Cause(ctx))}
		}
	}
	return nil
}

// dialAll makes all connections to rank to. On an error it gives those that it made.
func (l *Listener) dialAll(ctx context.Context, f *forming, to int, addr string) ([]net.Conn, error) {
	h := hello{
		version: version, job: f.id.Job, generation: f.id.Generation, from: f.id.Rank, to: to, world: f.world,
		flags: l.cfg.Flags, streams: l.cfg.Streams,
	}
	var conns []net.Conn
	for h.stream = 0; h.stream < h.streams; h.stream++ {
		c, streams, err := l.dial(ctx, h, addr)
		if err != nil {
			return conns, err
		}
		conns = append(conns, c)
		h.streams = min(h.streams, streams)
	}
	return conns, nil
}

// dial connects to the rank that h is for, trying again until ctx ends or the peer refuses for good.
func (l *Listener) dial(ctx context.Context, h hello, addr string) (net.Conn, int, error) {
	pause := firstPause
	for {
		c, streams, err := l.dialOnce(ctx, h, addr)
		if err == nil {
			return c, streams, nil
		}
		if errors.Is(err, errRefused) || errors.Is(err, ErrUntrusted) || errors.Is(err, collective.ErrGenerationChanged) {
			return nil, 0, &collective.PeerError{Rank: h.to, Op: "connect", Err: fmt.Errorf("%s: %w", addr, err)}
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, 0, &collective.PeerError{Rank: h.to, Op: "connect", Err: fmt.Errorf("%s: %w (last error: %s)", addr, context.Cause(ctx), err.Error())}
		}
		pause = min(2*pause, lastPause)
	}
}

func (l *Listener) dialOnce(ctx context.Context, h hello, addr string) (net.Conn, int, error) {
	dctx, cancel := context.WithTimeout(ctx, l.cfg.HandshakeTimeout)
	defer cancel()
	c, err := l.network.Dial(dctx, addr)
	if err != nil {
		return nil, 0, err
	}
	stop := context.AfterFunc(ctx, func() { c.Close() })
	streams, err := l.introduce(c, h)
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		c.Close()
		return nil, 0, err
	}
	return c, streams, nil
}

// introduce does the dialer's side of the handshake and gives the number of connections that the pair will have.
func (l *Listener) introduce(c net.Conn, h hello) (int, error) {
	if err := l.network.Trust(c); err != nil {
		return 0, err
	}
	// The peer may park the connection, so the reply takes longer than a handshake.
	_ = c.SetDeadline(time.Now().Add(l.cfg.HandshakeTimeout + l.cfg.ParkTimeout))
	if _, err := c.Write(h.append(nil)); err != nil {
		return 0, err
	}
	r, err := readReply(c)
	if err != nil {
		return 0, err
	}
	if err := r.err(h.generation); err != nil {
		return 0, err
	}
	if _, err := c.Write([]byte(confirm)); err != nil {
		return 0, err
	}
	return r.streams, c.SetDeadline(time.Time{})
}
