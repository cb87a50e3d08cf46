package collective

import (
	"fmt"
	"slices"
)

// Sub is the sub-group of the given ranks of g, in that order: rank i of it is ranks[i] of g. It uses g's transport and lives as
// long; a failure in one ends both. Sub itself exchanges nothing. Every rank of the sub-group must call it with
// the same ranks, as many times as the others; on a rank that is not among them the result is nil. PeerError names ranks of
// the group that New made.
//
// Of g and its sub-groups at most one operation runs at a time on a rank. Ranks that two groups share must call
// the two groups' operations, and Sub, in the same order. Where a group lies in the other they get an OutOfStepError otherwise; so
// that they do, every operation of a group exchanges a byte around each sub-group with two ranks or more that this rank
// is in too. Three groups or more that overlap in part can be called in an order for which each of several ranks waits for the next: that
// ends with their deadline.
func (g *Group) Sub(ranks []int) (*Group, error) {
	if len(ranks) == 0 {
		return nil, fmt.Errorf("%w: a sub-group of no ranks", ErrMisuse)
	}
	sub := &Group{endpoint: g.endpoint, tuning: g.tuning, rank: -1, ranks: make([]int, len(ranks)), plans: make(map[planKey]*plan)}
	seen := make(map[int]bool, len(ranks))
	h := newDigest().mix(int(g.id))
	for i, r := range ranks {
		if r < 0 || r >= g.World() || seen[r] {
			return nil, fmt.Errorf("%w: rank %d of a sub-group is no rank of the group of %d, or there twice", ErrMisuse, r, g.World())
		}
		seen[r] = true
		sub.ranks[i] = g.peer(r)
		if r == g.rank {
			sub.rank = i
		}
		h = h.mix(sub.ranks[i])
	}
	if sub.rank < 0 {
		return nil, nil
	}
	sub.hosts = newHosts(g.tr, len(ranks), sub.peer)
	sub.id = g.nameSub(uint32(h), sub.ranks)
	return sub, nil
}

// nameSub gives a sub-group a name that its ranks agree on: the same ranks may form several. It remembers the ranks.
func (e *endpoint) nameSub(digested uint32, ranks []int) uint32 {
	e.state.mu.Lock()
	defer e.state.mu.Unlock()
	if e.subs == nil {
		e.subs = make(map[uint32]int)
	}
	e.subs[digested]++
	e.members = append(e.members, slices.Sorted(slices.Values(ranks)))
	e.formed.Store(int64(len(e.members)))
	return max(uint32(digest(digested).mix(e.subs[digested])), 1)
}

// align compares, before an operation of g, what this rank is at with the ranks that other groups have in common with
// g: the smallest such sets first, so that no rank waits for ranks outside a set before those inside agree.
func (g *Group) align(c *Call) error {
	if n := g.formed.Load(); n != g.aligned {
		g.aligned = n
		g.planAlign()
	}
	if len(g.meet.steps) == 0 {
		return nil
	}
	return g.perform(&g.meet, c)
}

func (g *Group) planAlign() {
	g.state.mu.Lock()
	members := slices.Clone(g.members)
	g.state.mu.Unlock()
	p := &g.meet
	p.reset(g.World(), g.rank)
	place := make(map[int]int, g.World()) // the group's ranks by the transport's
	var all []int
	for r := range g.World() {
		place[g.peer(r)] = r
		all = append(all, g.peer(r))
	}
	sorted := slices.Sorted(slices.Values(all))
	members = append(members, sorted) // what it has in common with the group that New made
	var circles [][]int
	for _, m := range members {
		m = slices.DeleteFunc(slices.Clone(m), func(r int) bool { _, ok := place[r]; return !ok })
		if len(m) > 1 && !slices.Equal(m, all) { // the group's own circle is that of every plan
			circles = append(circles, m)
		}
	}
	slices.SortFunc(circles, func(a, b []int) int {
		if len(a) != len(b) {
			return len(a) - len(b)
		}
		return slices.Compare(a, b)
	})
	circles = slices.CompactFunc(circles, slices.Equal)
	for _, m := range circles {
		p.send(place[m[(slices.Index(m, g.peer(g.rank))+1)%len(m)]], tokenOut, true)
	}
	for _, m := range circles {
		p.recv(place[m[(slices.Index(m, g.peer(g.rank))+len(m)-1)%len(m)]], tokenIn)
	}
}

// peer is the transport's rank of a group's rank.
func (g *Group) peer(rank int) int {
	if g.ranks == nil {
		return rank
	}
	return g.ranks[rank]
}
