package collective

// hosts says where a group's ranks are.
type hosts struct {
	groups [][]int // the ranks of each host, in rank order; hosts in the order of their first ranks
	of     []int   // by rank: its host
	index  []int   // by rank: its place on its host
}

// newHosts asks tr; ranks are the group's.
func newHosts(tr Transport, world int, peer func(rank int) int) *hosts {
	t, ok := tr.(Topology)
	h := &hosts{of: make([]int, world), index: make([]int, world)}
	known := make(map[string]int)
	for r := range world {
		name := ""
		if ok {
			name = t.Host(peer(r))
		}
		i, seen := known[name]
		if !seen {
			i = len(h.groups)
			known[name] = i
			h.groups = append(h.groups, nil)
		}
		h.of[r], h.index[r] = i, len(h.groups[i])
		h.groups[i] = append(h.groups[i], r)
	}
	return h
}

// kind is what a Rule calls it.
func (h *hosts) kind() Hosts {
	if len(h.groups) > 1 && len(h.groups) < len(h.of) {
		return SeveralHosts
	}
	return OneHost
}

// owners is how many ranks of each host finish a part of the buffer.
func (h *hosts) owners() int {
	n := len(h.of)
	for _, g := range h.groups {
		n = min(n, len(g))
	}
	return n
}

// oneHost has all ranks together.
func oneHost(world int) *hosts {
	h := &hosts{of: make([]int, world), index: make([]int, world), groups: [][]int{make([]int, world)}}
	for r := range world {
		h.index[r], h.groups[0][r] = r, r
	}
	return h
}
