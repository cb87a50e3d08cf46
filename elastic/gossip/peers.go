package gossip

import (
	"cmp"
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"

	"github.com/hashicorp/memberlist"
)

// maxPeers bounds the table; a cluster has a node per host.
const maxPeers = 1 << 17

// instance is one start of a peer. A peer that crashed and came back has two until memberlist has buried the first;
// the later one counts.
type instance struct {
	peer  Peer
	start uint64
}

// peerTable follows memberlist's events, which come with memberlist's lock held: nothing here waits or calls back.
type peerTable struct {
	self   string // memberlist's name of this node
	log    *slog.Logger
	events chan Event
	wake   chan struct{} // holds one token when the table changed since pump looked

	mu      sync.Mutex
	nodes   map[string]instance // by memberlist's name; guarded by mu
	changed chan struct{}       // closed at the next change; guarded by mu
}

func newPeerTable(self string, log *slog.Logger) *peerTable {
	return &peerTable{
		self: self, log: log,
		events: make(chan Event, eventQueue), wake: make(chan struct{}, 1),
		nodes: map[string]instance{}, changed: make(chan struct{}),
	}
}

// NotifyJoin is memberlist's.
func (t *peerTable) NotifyJoin(n *memberlist.Node) { t.put(n) }

// NotifyUpdate is memberlist's.
func (t *peerTable) NotifyUpdate(n *memberlist.Node) { t.put(n) }

// NotifyLeave is memberlist's; it tells of the dead as well.
func (t *peerTable) NotifyLeave(n *memberlist.Node) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, ok := t.nodes[n.Name]; ok {
		delete(t.nodes, n.Name)
		t.markChanged()
	}
}

// NotifyConflict is memberlist's.
func (t *peerTable) NotifyConflict(have, other *memberlist.Node) {
	t.log.Warn("two gossip nodes have one name; the second is ignored", "peer", have.Name, "addr", have.Address(), "other", other.Address())
}

func (t *peerTable) put(n *memberlist.Node) {
	if n.Name == t.self {
		return
	}
	p, start, err := decodeMeta(n.Meta)
	t.mu.Lock()
	defer t.mu.Unlock()
	_, known := t.nodes[n.Name]
	if err == nil && !known && len(t.nodes) >= maxPeers {
		t.log.Warn("too many gossip nodes; this one is ignored", "peer", n.Name, "limit", maxPeers)
		return
	}
	if err != nil {
		// It holds the key, so it is some other version or program: not a peer, and no longer one if it was.
		t.log.Debug("a gossip node's metadata is not readable", "peer", n.Name, "err", err)
		if !known {
			return
		}
		delete(t.nodes, n.Name)
	} else {
		t.nodes[n.Name] = instance{p, start}
	}
	t.markChanged()
}

// markChanged wakes those who wait. Called with mu held.
func (t *peerTable) markChanged() {
	close(t.changed)
	t.changed = make(chan struct{})
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// current gives each peer's latest instance, by the peer's name.
func (t *peerTable) current() map[string]instance {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := make(map[string]instance, len(t.nodes))
	for _, n := range t.nodes {
		if old, ok := out[n.peer.Name]; !ok || n.start > old.start {
			out[n.peer.Name] = n
		}
	}
	return out
}

func (t *peerTable) list() []Peer {
	var out []Peer
	for _, n := range t.current() {
		out = append(out, n.peer)
	}
	slices.SortFunc(out, func(a, b Peer) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// coordinator gives the coordinator that started last, and a channel that is closed when that may have changed.
func (t *peerTable) coordinator() (p Peer, ok bool, changed <-chan struct{}) {
	t.mu.Lock()
	changed = t.changed // taken before looking, so that no change is missed
	t.mu.Unlock()
	var start uint64
	for _, n := range t.current() {
		if n.peer.Role == Coordinator && (!ok || n.start > start) {
			p, start, ok = n.peer, n.start, true
		}
	}
	return p, ok, changed
}

// pump turns the difference between what the reader was told and what is so into events, until ctx ends.
func (t *peerTable) pump(ctx context.Context) {
	defer close(t.events)
	told := map[string]instance{}
	for {
		select {
		case <-t.wake:
		case <-ctx.Done():
			return
		}
		now := t.current()
		for _, e := range difference(told, now) {
			t.log.Info("gossip peer "+e.Kind.String(), "peer", e.Peer.Name, "role", e.Peer.Role, "addr", e.Peer.Addr)
			select {
			case t.events <- e:
			case <-ctx.Done():
				return
			}
		}
		told = now
	}
}

// difference lists, by name, what changed from one table to the next. A restart under the same name is an update.
func difference(from, to map[string]instance) []Event {
	var out []Event
	names := maps.Clone(from)
	maps.Copy(names, to)
	for _, name := range slices.Sorted(maps.Keys(names)) {
		a, was := from[name]
		b, is := to[name]
		switch {
		case !was:
			out = append(out, Event{Joined, b.peer})
		case !is:
			out = append(out, Event{Left, a.peer})
		case a != b:
			out = append(out, Event{Updated, b.peer})
		}
	}
	return out
}
