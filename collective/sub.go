package collective

import "fmt"

// Sub is the sub-group of the given ranks of g, in that order: rank i of it is ranks[i] of g. It uses g's transport and lives as
// long; a failure in one ends both. Sub itself exchanges nothing. Every rank of the sub-group must call it with
// the same ranks, as many times as the others; on a rank that is not among them the result is nil. PeerError names ranks of
// the group that New made.
//
// Of g and its sub-groups at most one operation runs at a time on a rank. Ranks that two groups share must call
// the two groups' operations in the same order.
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
	sub.id = g.nameSub(uint32(h))
	return sub, nil
}

// nameSub gives a sub-group a name that its ranks agree on: the same ranks may form several.
func (e *endpoint) nameSub(digested uint32) uint32 {
	e.state.mu.Lock()
	defer e.state.mu.Unlock()
	if e.subs == nil {
		e.subs = make(map[uint32]int)
	}
	e.subs[digested]++
	return max(uint32(digest(digested).mix(e.subs[digested])), 1)
}

// peer is the transport's rank of a group's rank.
func (g *Group) peer(rank int) int {
	if g.ranks == nil {
		return rank
	}
	return g.ranks[rank]
}
