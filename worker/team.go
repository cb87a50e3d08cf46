package worker

import (
	"context"

	"github.com/farandole-ml/farandole/collective"
	"github.com/farandole-ml/farandole/elastic"
	"github.com/farandole-ml/farandole/kernels"
)

// team is the ranks of one generation, as one of them sees their memory. Every rank owns a part of the gradients: it reads everybody's
// partials of that part, adds them in the order of the tree, and writes the sum over its own; then each reads the other parts from
// their owners. A rank writes its own memory alone.
//
// Who reads what while whom may write:
//   - Partials lie still from the first barrier to the second, but for each rank's own part of its first slot, which nobody else reads.
//   - The sums, in the first slots, lie still from the second barrier on. The first slot then becomes the kept one, and is written by no
//     shard before the next step's sum is complete: every rank passed two barriers of that step, so it has read all.
//   - A rank that gives up writes at once what others may be reading. Therefore a step counts only after two more rounds with everybody. Whoever
//     passes the second round knows that everybody has passed the first one, and nobody calls the first before its reads have ended: what was
//     read was read while all were in the group.
type team struct {
	rank, shards int
	parts        []part
	peers        [][]kernels.Buffer // by rank: the first slot, the kept one, slots of further partials; empty for this rank
	imported     []kernels.Buffer
	adds         []add            // the tree, from the partials up; its last sum goes to this rank's first slot
	whole        place            // the sum itself, where one rank's partial is all of it and adds is empty
	between      []kernels.Buffer // sums that are neither partial nor result
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

// scratchLen is how many values of a part are added at once: 8 MiB of each of the few buffers between, which caches of large GPUs hold.
const scratchLen = 2 << 20

// newTeam plans the reduction of n values in the generation of a view.
func newTeam(view *elastic.View, rank, shards, n int) team {
	t := team{rank: rank, shards: shards}
	world, leaves := view.World(), map[elastic.Range]place{}
	bound := func(r int) int {
		if r == world {
			return n
		}
		return n * r / world / partAlign * partAlign
	}
	for r := range world {
		t.parts = append(t.parts, part{bound(r), bound(r + 1)})
		for i, node := range elastic.Partials(view.Ranges[r], shards) {
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
		b, err := dev.Alloc(min(own.hi-own.lo, scratchLen))
		if err != nil {
			return err
		}
		t.between = append(t.between, b)
	}
	return nil
}

// enter imports what the peers offer. After an error leave is due.
func (t *team) enter(dev kernels.Sharer, offers [][][]byte) error {
	t.peers = make([][]kernels.Buffer, len(offers))
	for rank, handles := range offers {
		if rank == t.rank {
			continue
		}
		for _, h := range handles {
			b, err := dev.Import(h)
			if err != nil {
				return err
			}
			t.imported = append(t.imported, b)
			t.peers[rank] = append(t.peers[rank], b)
		}
	}
	return nil
}

// leave closes all that was imported, and gives the first error.
func (t *team) leave(dev kernels.Device) (err error) {
	for _, b := range t.imported {
		if e := dev.(kernels.Sharer).Release(b); err == nil {
			err = e
		}
	}
	t.imported, t.peers = nil, nil
	return err
}

// swap follows the peers' residences, where the kept sum and the first slot have traded places.
func (t *team) swap() {
	for _, b := range t.peers {
		if len(b) > 0 {
			b[0], b[1] = b[1], b[0]
		}
	}
}

// values gives the memory of p at a place.
func (r *residence) values(at place, p part) kernels.Buffer {
	n := p.hi - p.lo
	switch {
	case at.rank == nobody:
		return r.team.between[at.slot].Slice(0, n)
	case at.rank == r.team.rank:
		return r.slots[at.slot].Slice(p.lo, n)
	case at.slot == 0:
		return r.team.peers[at.rank][0].Slice(p.lo, n)
	}
	return r.team.peers[at.rank][at.slot+1].Slice(p.lo, n)
}

// reduce makes the first slot the sum of all ranks' partials. The two more rounds are the caller's.
func (r *residence) reduce(ctx context.Context, g *collective.Group) error {
	meet := func() error {
		if err := r.dev.Sync(); err != nil {
			return err
		}
		return g.Barrier(ctx)
	}
	if err := meet(); err != nil {
		return err
	}
	own := r.team.parts[r.team.rank]
	for lo := own.lo; lo < own.hi; lo += scratchLen {
		r.addPart(part{lo, min(lo+scratchLen, own.hi)})
	}
	if err := meet(); err != nil {
		return err
	}
	for rank, p := range r.team.parts {
		if rank != r.team.rank && p.hi > p.lo {
			r.dev.Copy(r.values(place{r.team.rank, 0}, p), r.values(place{rank, 0}, p))
		}
	}
	return r.dev.Sync()
}

// addPart makes p of the first slot the sum of all partials there.
func (r *residence) addPart(p part) {
	first := place{r.team.rank, 0}
	if len(r.team.adds) == 0 && r.team.whole != first {
		r.dev.Copy(r.values(first, p), r.values(r.team.whole, p))
	}
	for _, a := range r.team.adds {
		r.dev.Add(r.values(a.out, p), r.values(a.a, p), r.values(a.b, p))
	}
}
