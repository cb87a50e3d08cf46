// Package gossip lets the agents of a cluster find the coordinator and each other, and hears of hosts that vanish.
//
// It is discovery and corroboration, never the roster: who is a member of a job is decided by the coordinator alone. What is
// learned here may be late, and two nodes may disagree for seconds; memberlist's failure detector takes 5 to 8 s at the LAN
// preset, and it does not notice a cut between one pair of hosts that both still reach others.
//
// Every message is encrypted and authenticated with a key that all nodes share. There is no mode without a key: without one, random
// packets have been seen to create members.
package gossip

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

// The roles that a Peer may have.
const (
	Coordinator = "coordinator"
	Agent       = "agent"
)

// Peer is what a node tells the others of itself.
type Peer struct {
	Name string // unique among nodes; a restarted node may use it again
	Role string // Coordinator or Agent
	Addr string // gRPC address, host:port
	Host string // as in elastic.Member
}

// Preset chooses how fast nodes probe each other. Faster finds a dead node sooner and, on a loaded machine, accuses living ones.
type Preset int

const (
	LAN   Preset = iota // a dead node is noticed after 5 to 8 s
	WAN                 // for links with high latency; some 30 s
	Local               // one machine; some 3 s
)

// Config says who this node is and where it listens.
type Config struct {
	Self Peer

	// Bind is the host:port to listen on, UDP and TCP; port 0 takes a free one. Zero means 127.0.0.1:0.
	Bind string

	// Advertise is the IP:port that others should use, where that is not the one it listens on (NAT, or Bind on all
	// interfaces). Port 0 is the port it listens on; another one needs a fixed port in Bind. Zero means the address it listens
	// on, or for 0.0.0.0 the host's private address.
	Advertise string

	// Key is the secret of the cluster, KeySize bytes. Required; see LoadKey and NewKey.
	Key []byte

	// Insecure allows a Bind that is not loopback. The traffic is encrypted all the same, but whoever holds the key can add nodes.
	Insecure bool

	// Preset is how fast nodes probe each other. Zero means LAN.
	Preset Preset

	// Logger gets a line per change, and memberlist's own lines at debug level. Zero means slog.Default.
	Logger *slog.Logger

	tune func(*memberlist.Config) // for tests
}

// eventQueue is how many events wait for a slow reader before changes are merged.
const eventQueue = 64

// EventKind is what happened to a peer.
type EventKind int

// The kinds of Event.
const (
	Joined EventKind = iota + 1
	Left             // said goodbye, or stopped answering
	Updated
)

func (k EventKind) String() string {
	switch k {
	case Joined:
		return "joined"
	case Left:
		return "left"
	case Updated:
		return "updated"
	}
	return fmt.Sprintf("EventKind(%d)", int(k))
}

// Event is a change of one peer, as this node sees it.
type Event struct {
	Kind EventKind
	Peer Peer
}

// Node is this process's place in the cluster. Its methods may be called from any goroutine.
type Node struct {
	list    *memberlist.Memberlist
	ring    *memberlist.Keyring
	peers   *peerTable
	self    *selfMeta
	log     *slog.Logger
	joins   sync.WaitGroup
	stop    context.CancelFunc
	unhook  func() bool
	pumping chan struct{}

	ending sync.Mutex // held by Leave and Close: memberlist panics when one meets the other
	mu     sync.Mutex
	closed bool // guarded by mu
}

// Start listens and answers; it contacts nobody until Join. The node runs until Leave or Close, or until ctx ends, which is like Close.
func Start(ctx context.Context, cfg Config) (*Node, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	mc, err := cfg.memberlist(ctx)
	if err != nil {
		return nil, fmt.Errorf("gossip: %w", err)
	}
	// Each start is a node of its own for memberlist, which would refuse a name that comes back on another port.
	self := &selfMeta{peer: cfg.Self, start: uint64(time.Now().UnixNano())}
	mc.Name = self.instance()
	if mc.Keyring, err = memberlist.NewKeyring(nil, cfg.Key); err != nil {
		return nil, fmt.Errorf("gossip: key: %w", err)
	}
	n := &Node{ring: mc.Keyring, self: self, log: cfg.Logger, pumping: make(chan struct{})}
	n.peers = newPeerTable(mc.Name, cfg.Logger)
	mc.Delegate, mc.Events, mc.Conflict = self, n.peers, n.peers
	mc.Logger = debugLogger(cfg.Logger)
	if cfg.tune != nil {
		cfg.tune(mc)
	}
	if n.list, err = memberlist.Create(mc); err != nil {
		return nil, fmt.Errorf("gossip: listen on %s: %w", net.JoinHostPort(mc.BindAddr, strconv.Itoa(mc.BindPort)), err)
	}
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	n.stop = stop
	go func() {
		defer close(n.pumping)
		n.peers.pump(running)
	}()
	n.mu.Lock()
	defer n.mu.Unlock() // Close, which may come at once, reads unhook
	n.unhook = context.AfterFunc(ctx, func() { n.Close() })
	return n, nil
}

// memberlist checks cfg and turns it into memberlist's Config.
func (cfg *Config) memberlist(ctx context.Context) (*memberlist.Config, error) {
	if err := cfg.Self.validate(); err != nil {
		return nil, err
	}
	if len(cfg.Key) != KeySize {
		return nil, fmt.Errorf("the key has %d bytes, not %d; make one with NewKey and give it to every node", len(cfg.Key), KeySize)
	}
	var mc *memberlist.Config
	switch cfg.Preset {
	case LAN:
		mc = memberlist.DefaultLANConfig()
	case WAN:
		mc = memberlist.DefaultWANConfig()
	case Local:
		mc = memberlist.DefaultLocalConfig()
	default:
		return nil, fmt.Errorf("unknown preset %d", cfg.Preset)
	}
	bind := cfg.Bind
	if bind == "" {
		bind = "127.0.0.1:0"
	}
	at, err := resolve(ctx, bind)
	if err != nil {
		return nil, fmt.Errorf("bind address %q: %w", bind, err)
	}
	if !at[0].Addr().IsLoopback() && !cfg.Insecure {
		return nil, fmt.Errorf("bind address %q is not loopback; set Insecure to gossip over a network that you trust with the key", bind)
	}
	// memberlist takes any other name than an IP address to mean all interfaces.
	mc.BindAddr, mc.BindPort = at[0].Addr().String(), int(at[0].Port())
	mc.AdvertisePort = mc.BindPort
	if cfg.Advertise != "" {
		adv, err := netip.ParseAddrPort(cfg.Advertise)
		if err != nil {
			return nil, fmt.Errorf("advertise address: %w", err)
		}
		if adv.Port() != 0 && mc.BindPort == 0 {
			return nil, fmt.Errorf("advertise address %q has a port, so bind address %q needs one too", cfg.Advertise, bind)
		}
		mc.AdvertiseAddr = adv.Addr().String()
		if adv.Port() != 0 {
			mc.AdvertisePort = int(adv.Port())
		}
	} else if at[0].Addr() == netip.IPv6Unspecified() {
		return nil, fmt.Errorf("bind address %q needs an Advertise address", bind)
	}
	mc.Label = "farandole"
	mc.LogOutput = nil
	return mc, nil
}

// resolve gives the addresses of a host:port; the host may be a name.
func resolve(ctx context.Context, hostPort string) ([]netip.AddrPort, error) {
	host, port, err := net.SplitHostPort(hostPort)
	if err != nil {
		return nil, err
	}
	p, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("port %q is not a number from 0 to 65535", port)
	}
	if host == "" {
		return nil, errors.New("it has no host")
	}
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, err
	}
	out := make([]netip.AddrPort, len(ips))
	for i, ip := range ips {
		out[i] = netip.AddrPortFrom(ip.Unmap(), uint16(p))
	}
	return out, nil
}

// Addr is the host:port that other nodes may Join.
func (n *Node) Addr() string {
	return n.list.LocalNode().Address()
}

// Join makes this node known to a cluster and the cluster to it, through any of addrs (host:port). It succeeds when one of them
// answers; else the error says of each address what to check. The node's own address is passed over.
func (n *Node) Join(ctx context.Context, addrs []string) error {
	if len(addrs) == 0 {
		return errors.New("gossip: join: no address given")
	}
	if !n.startJoin() {
		return errClosed
	}
	answer := make(chan error, 1)
	go func() {
		defer n.joins.Done()
		answer <- n.join(ctx, addrs)
	}()
	// memberlist knows no context: what it does ends within its TCP timeout, and Close waits for that.
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		return fmt.Errorf("gossip: join %s: %w", strings.Join(addrs, ", "), context.Cause(ctx))
	}
}

var errClosed = errors.New("gossip: the node is closed")

func (n *Node) startJoin() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return false
	}
	n.joins.Add(1)
	return true
}

func (n *Node) join(ctx context.Context, addrs []string) error {
	var errs []error
	joined := false
	for _, addr := range addrs {
		found, err := resolve(ctx, addr)
		if err != nil {
			errs = append(errs, fmt.Errorf("gossip: join %s: %w; check the name", addr, err))
			continue
		}
		for _, at := range found {
			if ctx.Err() != nil {
				return fmt.Errorf("gossip: join %s: %w", addr, context.Cause(ctx))
			}
			if at.String() == n.Addr() {
				joined = true
				continue
			}
			if _, err := n.list.Join([]string{at.String()}); err != nil {
				errs = append(errs, joinError(addr, err))
				continue
			}
			joined = true
		}
	}
	if joined {
		return nil
	}
	return errors.Join(errs...)
}

// joinError says what to check. memberlist gives its causes as text only.
func joinError(addr string, err error) error {
	text := err.Error()
	for _, sign := range []string{"connection refused", "timeout", "no route to host", "unreachable"} {
		if strings.Contains(text, sign) {
			return fmt.Errorf("gossip: join %s: nobody answers there (%s); check that a node runs at that address and that TCP and UDP pass", addr, sign)
		}
	}
	return fmt.Errorf("gossip: join %s: somebody answers and does not understand; check that both have the same key and that it is a gossip port", addr)
}

// Peers lists the other nodes that are thought alive, by name.
func (n *Node) Peers() []Peer { return n.peers.list() }

// Coordinator waits until a coordinator is known. Of several it gives the one that started last; a node that is one gives itself.
func (n *Node) Coordinator(ctx context.Context) (Peer, error) {
	if self := n.self.get(); self.Role == Coordinator {
		return self, nil
	}
	for {
		p, ok, changed := n.peers.coordinator()
		if ok {
			return p, nil
		}
		select {
		case <-changed:
		case <-n.pumping:
			return Peer{}, errClosed
		case <-ctx.Done():
			return Peer{}, fmt.Errorf("gossip: wait for a coordinator (%d peers known): %w", len(n.Peers()), context.Cause(ctx))
		}
	}
}

// Events gives the changes of Peers since Start, and is closed when the node is. A reader that is slow loses nothing but what
// was undone meanwhile: changes of one peer are merged. Memberlist never waits for the reader.
func (n *Node) Events() <-chan Event { return n.peers.events }

// Update tells the others another Role, Addr or Host of this node; the Name stays.
func (n *Node) Update(p Peer, timeout time.Duration) error {
	if err := p.validate(); err != nil {
		return fmt.Errorf("gossip: update: %w", err)
	}
	if n.isClosed() {
		return errClosed
	}
	if err := n.self.set(p); err != nil {
		return fmt.Errorf("gossip: update: %w", err)
	}
	if err := n.list.UpdateNode(timeout); err != nil {
		return fmt.Errorf("gossip: update: %w", err)
	}
	return nil
}

// Leave says goodbye, waits at most timeout (zero means LeaveTimeout) until somebody has heard it, and closes the node.
func (n *Node) Leave(timeout time.Duration) error {
	n.ending.Lock()
	defer n.ending.Unlock()
	if n.isClosed() {
		return nil
	}
	if timeout <= 0 {
		timeout = LeaveTimeout
	}
	leaveErr := n.list.Leave(timeout)
	if err := n.close(); err != nil {
		return err
	}
	if leaveErr != nil {
		return fmt.Errorf("gossip: leave: %w; the others will notice by themselves", leaveErr)
	}
	return nil
}

// LeaveTimeout is how long Leave waits when it is not told.
const LeaveTimeout = 5 * time.Second

func (n *Node) isClosed() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.closed
}

// Close stops the node without a word, as a crash would. It may be called again. It returns when a Join that is under way has
// ended, which takes at most memberlist's TCP timeout (10 s; WAN 30 s, Local 1 s).
func (n *Node) Close() error {
	n.ending.Lock()
	defer n.ending.Unlock()
	return n.close()
}

// close is called with ending held.
func (n *Node) close() error {
	n.mu.Lock()
	was := n.closed
	n.closed = true
	n.mu.Unlock()
	if was {
		return nil
	}
	n.unhook()
	err := n.list.Shutdown()
	n.stop()
	n.joins.Wait()
	<-n.pumping
	if err != nil {
		return fmt.Errorf("gossip: close: %w", err)
	}
	return nil
}
