package worker

import (
	"context"

	"github.com/farandole-ml/farandole/collective"
	"github.com/farandole-ml/farandole/elastic"
	"github.com/farandole-ml/farandole/kernels"
)

// team is the ranks of one generation, as one of them sees their gradients. Every rank owns a part: it gets everybody's partials of that part, adds
// them in the order of the tree, and writes the sum over its own; then each gets the other parts from their owners. A way is how they do.
//
// A rank that gives up may have others end with nonsense: it writes at once what they are reading, or ends in the middle of what it sends. Therefore a step
// counts only after two more rounds with everybody. Whoever passes the second round knows that everybody has passed the first one, and nobody calls the
// first before all that it was to get is there: what was got was got while all were in the group.
type team struct {
	rank, shards int
	parts        []part
	partials     []int            // how many each rank has
	chunk        int              // how many values of a part are added at once
	way          way              // nil alone
	adds         []add            // the tree, from the partials up; its last sum goes to this rank's first slot
	whole        place            // the sum itself, where one rank's partial is all of it and adds is empty
	between      []kernels.Buffer // sums that are neither partial nor result
}

// way is how the ranks of a team get at each other's partials and sums. The training goroutine's own.
type way interface {
	// reduce makes the first slot the sum of all ranks' partials. The two more rounds are the caller's.
	reduce(ctx context.Context, r *residence, g *collective.Group) error
	// theirs gives p of another rank's partial, where reduce has it.
	theirs(at place, p part) kernels.Buffer
	// swap follows the ranks' residences, where the kept sum and the first slot have traded places.
	swap()
	// leave ends what there is in common, whatever the others do.
	leave(dev kernels.Device) error
	// says is a line of the log: how gradients are reduced.
	says() string
}

// add is one addition of the tree.
type add struct{ out, a, b place }

// part is values [lo, hi) of the gradients, which one rank owns.
type part struct{ lo, hi int }

// place is a rank's slot, or, of the rank nobody, a buffer between.
type place struct{ rank, slot int }

const nobody = -1

// partAlign is what a part begins at a multiple of, in values: 256 bytes, so that no two ranks write into one line of a cache.
const partAlign = 64

// scratchLen is the most of a team's chunk: 8 MiB of each of the few buffers between, which caches of large GPUs hold.
const scratchLen = 2 << 20

// newTeam plans the reduction of n values in the generation of a view.
func newTeam(view *elastic.View, rank, shards, n int) team {
	t := team{rank: rank, shards: shards, chunk: scratchLen}
	world, leaves := view.World(), map[elastic.Range]place{}
	bound := func(r int) int {
		if r == world {
			return n
		}
		return n * r / world / partAlign * partAlign
	}
	for r := range world {
		t.parts = append(t.parts, part{bound(r), bound(r + 1)})
		nodes := elastic.Partials(view.Ranges[r], shards)
		t.partials = append(t.partials, len(nodes))
		for i, node := range nodes {
			leaves[node] = place{r, i}
		}
	}
	t.whole = t.plan(leaves, elastic.Range{First: 0, End: shards}, 0)
	if last := len(t.adds) - 1; last >= 0 {
		t.adds[last].out = place{rank, 0}
	}
	return t
}

// plan appends the additions that make node, and gives its place; buffers between are in use up to number free.
func (t *team) plan(leaves map[elastic.Range]place, node elastic.Range, free int) place {
	if at, ok := leaves[node]; ok {
		return at
	}
	left, right, _ := elastic.Children(node)
	out := place{nobody, free}
	a := t.plan(leaves, left, free)
	if a.rank == nobody {
		free++
	}
	b := t.plan(leaves, right, free)
	t.adds = append(t.adds, add{out, a, b})
	return out
}

// reserve allocates the buffers between.
func (t *team) reserve(dev kernels.Device) error {
	own, count := t.parts[t.rank], 0
	for _, a := range t.adds {
		if a.out.rank == nobody {
			count = max(count, a.out.slot+1)
		}
	}
	for len(t.between) < count {
		b, err := dev.Alloc(min(own.hi-own.lo, t.chunk))
		if err != nil {
			return err
		}
		t.between = append(t.between, b)
	}
	return nil
}

// pieces is how often the longest part has a chunk, and piece a rank's part's chunk of that number, which may be empty.
func (t *team) pieces() (n int) {
	for _, p := range t.parts {
		n = max(n, (p.hi-p.lo+t.chunk-1)/t.chunk)
	}
	return n
}

func (t *team) piece(rank, number int) part {
	p := t.parts[rank]
	lo := min(p.lo+number*t.chunk, p.hi)
	return part{lo, min(lo+t.chunk, p.hi)}
}

// leave ends what the ranks have in common.
func (t *team) leave(dev kernels.Device) error {
	if t.way == nil {
		return nil
	}
	w := t.way
	t.way = nil
	return w.leave(dev)
}

// values gives the memory of p at a place.
func (r *residence) values(at place, p part) kernels.Buffer {
	n := p.hi - p.lo
	switch {
	case at.rank == nobody:
		return r.team.between[at.slot].Slice(0, n)
	case at.rank == r.team.rank:
		return r.slots[at.slot].Slice(p.lo, n)
	}
	return r.team.way.theirs(at, p)
}

// reduce makes the first slot the sum of all ranks' partials. The two more rounds are the caller's.
func (r *residence) reduce(ctx context.Context, g *collective.Group) error {
	return r.team.way.reduce(ctx, r, g)
}

// addPart makes p of the first slot the sum of all partials there.
func (r *residence) addPart(p part) {
	first := place{r.team.rank, 0}
	if len(r.team.adds) == 0 && r.team.whole != first {
		r.dev.Copy(r.values(first, p), r.values(r.team.whole, p))
	}
	for _, a := range r.team.adds {
		r.add(r.values(a.out, p), r.values(a.a, p), r.values(a.b, p))
	}
}
