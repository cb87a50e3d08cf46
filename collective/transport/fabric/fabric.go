//go:build fabric && cgo && linux

package fabric

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/farandole-ml/farandole/collective"
	"github.com/farandole-ml/farandole/collective/transport"
	"github.com/farandole-ml/farandole/collective/transport/mesh"
)

// Listener accepts the connections of one process, for one generation after the other.
// Its methods may be called from any goroutine.
type Listener struct {
	*mesh.Listener
	cfg Config
}

// Listen starts accepting on addr (host:port; port 0 picks one). The caller must Close the Listener.
func Listen(addr string, cfg Config) (*Listener, error) {
	cfg = cfg.withDefaults()
	if isShared(cfg.Provider) {
		return nil, errShared
	}
	m := mesh.Config{
		Job: cfg.Job, Admission: cfg.Admission, Logger: cfg.Logger,
		FlagNames: []string{"message checksums", "staging"},
	}
	for i, on := range []bool{cfg.Checksum, cfg.Stage} {
		if on {
			m.Flags |= 1 << i
		}
	}
	l, err := mesh.Listen(network{}, addr, m)
	if err != nil {
		return nil, err
	}
	return &Listener{l, cfg}, nil
}

func (c Config) withDefaults() Config {
	if c.Liveness == 0 {
		c.Liveness = time.Second
	}
	return c
}

// errShared says why libfabric's shared memory is refused. Of libfabric 1.17 this was seen; docs/fabric.md has the rest.
var errShared = errors.New("fabric: libfabric's provider shm is not used, because it loses messages of programs with threads and a process that is killed can leave its peers spinning for ever: on one host choose the transport shm, or libfabric's provider tcp")

// isShared says whether a provider, which may be layered ("shm;ofi_mrail"), is libfabric's shared memory.
func isShared(provider string) bool {
	return slices.Contains(strings.Split(provider, ";"), "shm")
}

// network is TCP for package mesh.
type network struct{}

// Name implements mesh.Network.
func (network) Name() string { return "fabric" }

// Listen implements mesh.Network.
func (network) Listen(addr string) (net.Listener, error) { return net.Listen("tcp", addr) }

// Dial implements mesh.Network.
func (network) Dial(ctx context.Context, addr string) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, "tcp", addr)
}

// Trust implements mesh.Network.
func (network) Trust(net.Conn) error { return nil }

// Connect forms the group of id.Generation: see mesh.Listener.Connect. The caller owns the transport.
func (l *Listener) Connect(ctx context.Context, id transport.ID, addrs []string) (collective.Transport, error) {
	if len(addrs) > maxSources {
		return nil, fmt.Errorf("fabric: connect: %d ranks are more than the %d that a tag can tell apart", len(addrs), maxSources)
	}
	groups, err := l.Listener.Connect(ctx, id, addrs)
	if err != nil {
		return nil, err
	}
	conns := make([]net.Conn, len(groups))
	for r, c := range groups {
		if len(c) == 1 {
			conns[r] = c[0]
			l.tune(c[0])
		}
	}
	t, err := l.form(ctx, id, conns)
	if err != nil {
		for _, c := range conns {
			if c != nil {
				c.Close()
			}
		}
		return nil, fmt.Errorf("fabric: generation %d: %w", id.Generation, err)
	}
	return t, nil
}

func (l *Listener) tune(c net.Conn) {
	const probes = 2
	_ = c.(*net.TCPConn).SetKeepAliveConfig(net.KeepAliveConfig{
		Enable:   l.cfg.Liveness > 0,
		Idle:     max(l.cfg.Liveness, time.Second), // the kernel counts in seconds
		Interval: max(l.cfg.Liveness, time.Second),
		Count:    probes,
	})
}

// form opens an endpoint, tells the peers its address, and learns theirs.
func (l *Listener) form(ctx context.Context, id transport.ID, conns []net.Conn) (*group, error) {
	if len(conns) == 1 {
		return newGroup(id, nil, conns, l.cfg)
	}
	node := ""
	for _, c := range conns {
		if c != nil {
			node, _, _ = net.SplitHostPort(c.LocalAddr().String())
			break
		}
	}
	ranks := len(conns) // the own one among them: see greet
	ep, err := openEndpoint(l.cfg.Provider, node, ranks*peerOps, ranks*peerBytes)
	if err != nil {
		return nil, err
	}
	t, err := l.meet(ctx, id, ep, conns)
	if err != nil {
		ep.close()
		return nil, err
	}
	if err := t.greet(ctx); err != nil {
		_ = t.Close()
		return nil, err
	}
	return t, nil
}

func (l *Listener) meet(ctx context.Context, id transport.ID, ep *endpoint, conns []net.Conn) (*group, error) {
	stop := context.AfterFunc(ctx, func() {
		for _, c := range conns {
			if c != nil {
				_ = c.SetDeadline(time.Unix(1, 0))
			}
		}
	})
	defer stop()
	name, err := ep.name()
	if err != nil {
		return nil, err
	}
	for r, c := range conns {
		if c == nil {
			continue
		}
		_ = c.SetDeadline(time.Now().Add(meetTimeout))
		if _, err := c.Write(card{ep.provider(), name}.append(nil)); err != nil {
			return nil, l.missed(ctx, r, err)
		}
	}
	for r, c := range conns {
		if c == nil {
			continue
		}
		theirs, err := readCard(c)
		if err == nil && theirs.provider != ep.provider() {
			err = fmt.Errorf("libfabric's provider is %s there and %s here: name one in the configuration", theirs.provider, ep.provider())
		}
		if err == nil {
			err = ep.insert(theirs.name, r)
		}
		if err != nil {
			return nil, l.missed(ctx, r, err)
		}
	}
	if err := ep.insert(name, id.Rank); err != nil {
		return nil, err
	}
	for _, c := range conns {
		if c != nil {
			_ = c.SetDeadline(time.Time{})
		}
	}
	if !stop() {
		return nil, context.Cause(ctx)
	}
	return newGroup(id, ep, conns, l.cfg)
}

// greet sends a first datagram between every pair, the lower rank first: so that a network that does not pass them is
// found out here, and because providers exist whose endpoints lock up when both sides begin at once.
//
// Over ofi_rxm a rank greets itself as well. That layer has a table of its connections whose memory it frees with the last one, but looks
// there, for the sender of a large message that was announced before, when the receive is posted, and does not survive the table's absence. An
// endpoint that is connected to itself always has one.
func (t *group) greet(ctx context.Context) error {
	limit, cancel := context.WithTimeoutCause(ctx, meetTimeout, errors.New("no datagram has passed"))
	defer cancel()
	stop := context.AfterFunc(limit, func() { t.Abort(context.Cause(limit)) })
	defer stop()
	var tasks errgroup.Group
	for r, p := range t.peers {
		if r == t.id.Rank && strings.Contains(t.ep.provider(), "ofi_rxm") {
			p = t.self
		}
		if p == nil {
			continue
		}
		tasks.Go(func() error {
			if !t.enter() {
				return t.cause()
			}
			defer t.inside.Done()
			steps := []func(*peer) error{t.sendGreeting, t.awaitGreeting}
			if p.rank < t.id.Rank {
				slices.Reverse(steps)
			}
			for _, step := range steps {
				if err := step(p); err != nil {
					err = &collective.PeerError{Rank: p.rank, Op: "connect", Err: err}
					t.Abort(err)
					return err
				}
			}
			return nil
		})
	}
	return tasks.Wait()
}

func (t *group) sendGreeting(p *peer) error {
	b := p.frame(opSend)[:1]
	err := t.post(p, opPiece, func() (bool, error) { return t.ep.send(p.base+opPiece, b, p.rank, headerTag(t.id.Rank, 0)) })
	if err == nil {
		_, err = t.await(p, opPiece)
	}
	return err
}

func (t *group) awaitGreeting(p *peer) error {
	b := p.staged(opFill)[:1]
	err := t.post(p, opFill, func() (bool, error) { return t.ep.recv(p.base+opFill, b, headerTag(p.rank, 0)) })
	if err == nil {
		_, err = t.await(p, opFill)
	}
	return err
}

func (l *Listener) missed(ctx context.Context, rank int, err error) error {
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return &collective.PeerError{Rank: rank, Op: "connect", Err: err}
}

// card is what ranks tell one another about their endpoints.
type card struct {
	provider string
	name     []byte
}

const (
	// meetTimeout is how long a rank that has connected may take to open its endpoint.
	meetTimeout = 30 * time.Second

	cardMagic        = "FARANFAB"
	maxProviderBytes = 128
)

func (c card) append(b []byte) []byte {
	b = append(b, cardMagic...)
	b = binary.LittleEndian.AppendUint16(b, uint16(len(c.provider)))
	b = binary.LittleEndian.AppendUint16(b, uint16(len(c.name)))
	return append(append(b, c.provider...), c.name...)
}

// readCard reads no more than a card has, whatever is claimed.
func readCard(r io.Reader) (card, error) {
	var head [12]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return card{}, transport.Ended(err)
	}
	p, n := int(binary.LittleEndian.Uint16(head[8:])), int(binary.LittleEndian.Uint16(head[10:]))
	if !bytes.Equal(head[:8], []byte(cardMagic)) || p > maxProviderBytes || n == 0 || n > maxNameBytes {
		return card{}, fmt.Errorf("%w: no endpoint's address", transport.ErrCorrupt)
	}
	b := make([]byte, p+n)
	if _, err := io.ReadFull(r, b); err != nil {
		return card{}, transport.Ended(err)
	}
	return card{string(b[:p]), b[p:]}, nil
}
