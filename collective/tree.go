package collective

import (
	"fmt"
	"slices"

	"github.com/farandole-ml/farandole/elastic"
	"github.com/farandole-ml/farandole/kernels"
)

// tree reduces partials in the order of the reduction tree. The buffer has one segment for each rank. Every rank
// sends a segment of its partials to the segment's owner, chunk by chunk; the owner adds a chunk's partials as
// the tree says and sends the sum to everybody. Toward one peer a rank sends first all chunks of the peer's segment,
// then the finished chunks of its own.
//
// Small buffers have no owners: every rank gets all partials and computes the whole sum (direct).
type tree struct {
	plan     treePlan
	rank     int
	out      []float32
	partials []Partial
	grid     grid
	direct   bool
	peers    []*sender

	scratch [][]float32 // by slot
	free    []int       // slots
	stack   []operand
}

// operand is a node's value for one chunk: in a partial of this rank, or in a scratch slot.
type operand struct {
	data []float32
	slot int // -1: not scratch
}

// message is the outbox of every peer.
func (t *tree) message(to, k int) []byte {
	if t.direct {
		return bytesOf(t.partials[k].Data)
	}
	n := len(t.partials)
	if sums := k - n*t.grid.chunks; sums >= 0 {
		return t.grid.chunk(t.rank, sums).of(bytesOf(t.out))
	}
	return t.grid.chunk(to, k/n).of(bytesOf(t.partials[k%n].Data))
}

func (g *Group) reduceTree(out []float32, partials []Partial, ranges []elastic.Range, shards int) error {
	t := &g.tree
	if err := t.plan.update(ranges, shards, g.World()); err != nil {
		return err
	}
	if err := t.plan.check(out, partials, g.Rank()); err != nil {
		return err
	}
	if len(out) == 0 {
		return g.meet()
	}
	t.rank, t.out, t.partials = g.Rank(), out, partials
	err := g.settle(t.run(g))
	t.out, t.partials = nil, nil
	return err
}

func (t *tree) run(g *Group) error {
	w, n := g.World(), len(t.out)
	if t.direct = g.tuning.isDirect(4*n, t.plan.most); t.direct {
		return t.runDirect(g)
	}
	t.grid = newGrid(4*n, w, g.tuning.ChunkBytes)
	t.peers = t.peers[:0]
	first := len(t.partials) * t.grid.chunks
	for i := 1; i < w; i++ {
		t.peers = append(t.peers, g.post((t.rank+i)%w, t, first, first+t.grid.chunks))
	}
	for c := range t.grid.chunks {
		at := t.grid.chunk(t.rank, c)
		if at.lo < at.hi {
			if err := t.sum(g.tr, span{at.lo / 4, at.hi / 4}, t.out[at.lo/4:at.hi/4]); err != nil {
				return err
			}
		}
		for _, p := range t.peers {
			p.release()
		}
	}
	for c := range t.grid.chunks {
		for i := 1; i < w; i++ {
			owner := (t.rank + w - i) % w
			if at := t.grid.chunk(owner, c); at.lo < at.hi {
				if err := g.tr.Recv(owner, at.of(bytesOf(t.out))); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// runDirect computes into scratch, because out may be a partial that is still being sent.
func (t *tree) runDirect(g *Group) error {
	w, n := g.World(), len(t.out)
	for i := 1; i < w; i++ {
		g.post((t.rank+i)%w, t, len(t.partials), len(t.partials))
	}
	slot := t.take(n)
	defer t.give(slot)
	sum := t.scratch[slot][:n]
	if err := g.settle(t.sum(g.tr, span{0, n}, sum)); err != nil {
		return err
	}
	copy(t.out, sum)
	return nil
}

// sum evaluates the tree over elements at of the partials into dst: own partials are read where they are, the others'
// are received. dst is written by the last addition alone, so it may be the same part of an own partial.
func (t *tree) sum(tr Transport, at span, dst []float32) error {
	t.stack = t.stack[:0]
	for i, in := range t.plan.code {
		if in.add {
			t.addTop(dst, i == len(t.plan.code)-1)
			continue
		}
		if in.rank == t.rank {
			t.stack = append(t.stack, operand{t.partials[in.index].Data[at.lo:at.hi], -1})
			continue
		}
		slot := t.take(at.hi - at.lo)
		v := operand{t.scratch[slot][:at.hi-at.lo], slot}
		t.stack = append(t.stack, v)
		if err := tr.Recv(in.rank, bytesOf(v.data)); err != nil {
			t.reset()
			return err
		}
	}
	if top := t.stack[0]; len(t.plan.code) == 1 {
		copy(dst, top.data)
		t.give(top.slot)
	}
	return nil
}

// addTop replaces the two topmost operands by their sum, left plus right.
func (t *tree) addTop(dst []float32, last bool) {
	k := len(t.stack) - 2
	left, right := t.stack[k], t.stack[k+1]
	v := left
	switch {
	case last:
		v = operand{dst, -1}
	case left.slot >= 0:
	case right.slot >= 0:
		v = right
	default:
		slot := t.take(len(dst))
		v = operand{t.scratch[slot][:len(dst)], slot}
	}
	kernels.AddF32(v.data, left.data, right.data)
	for _, o := range [...]operand{left, right} {
		if o.slot != v.slot {
			t.give(o.slot)
		}
	}
	t.stack[k] = v
	t.stack = t.stack[:k+1]
}

// take gets a scratch slot of at least n floats, give returns it (a negative slot is none).
func (t *tree) take(n int) int {
	if len(t.free) == 0 {
		t.free = append(t.free, len(t.scratch))
		t.scratch = append(t.scratch, nil)
	}
	slot := t.free[len(t.free)-1]
	t.free = t.free[:len(t.free)-1]
	grow(&t.scratch[slot], n)
	return slot
}

func (t *tree) give(slot int) {
	if slot >= 0 {
		t.free = append(t.free, slot)
	}
}

// reset frees what the stack holds.
func (t *tree) reset() {
	for _, o := range t.stack {
		t.give(o.slot)
	}
	t.stack = t.stack[:0]
}

// treePlan is the reduction tree of one set of ranges as a program for a stack machine.
type treePlan struct {
	ranges []elastic.Range
	shards int
	nodes  [][]elastic.Range // the partials of each rank
	most   int               // partials in all
	code   []instruction
}

// instruction pushes a partial, or replaces the two topmost values by their sum.
type instruction struct {
	add   bool
	rank  int
	index int // among the rank's partials
}

// update makes the plan be that of ranges; nothing happens when it is already.
func (p *treePlan) update(ranges []elastic.Range, shards, world int) error {
	if p.code != nil && p.shards == shards && slices.Equal(p.ranges, ranges) {
		return nil
	}
	*p = treePlan{}
	if len(ranges) != world || shards < 1 {
		return fmt.Errorf("%w: tree reduce got %d ranges of %d shards for %d ranks", ErrMisuse, len(ranges), shards, world)
	}
	next := 0
	for r, of := range ranges {
		if of.First != next || of.End < of.First || of.End > shards {
			return fmt.Errorf("%w: tree reduce: range %v of rank %d does not lie in [%d,%d)", ErrMisuse, of, r, next, shards)
		}
		next = of.End
		p.nodes = append(p.nodes, elastic.Partials(of, shards))
	}
	if next != shards {
		return fmt.Errorf("%w: tree reduce: the ranges end at shard %d of %d", ErrMisuse, next, shards)
	}
	var leaves []instruction
	for r, nodes := range p.nodes {
		for i := range nodes {
			leaves = append(leaves, instruction{rank: r, index: i})
		}
	}
	p.most = len(leaves)
	p.compile(&leaves, elastic.Range{First: 0, End: shards})
	p.ranges, p.shards = slices.Clone(ranges), shards
	return nil
}

// compile appends the evaluation of node; leaves are the partials from node's first shard on.
func (p *treePlan) compile(leaves *[]instruction, node elastic.Range) {
	leaf := (*leaves)[0]
	if p.nodes[leaf.rank][leaf.index] == node {
		p.code = append(p.code, leaf)
		*leaves = (*leaves)[1:]
		return
	}
	left, right, _ := elastic.Children(node)
	p.compile(leaves, left)
	p.compile(leaves, right)
	p.code = append(p.code, instruction{add: true})
}

// check says whether rank's arguments fit the plan.
func (p *treePlan) check(out []float32, partials []Partial, rank int) error {
	want := p.nodes[rank]
	if len(partials) != len(want) {
		return fmt.Errorf("%w: tree reduce: rank %d has %d partials, its range %v of %d shards needs %v", ErrMisuse, rank, len(partials), p.ranges[rank], p.shards, want)
	}
	for i, have := range partials {
		if have.Node != want[i] {
			return fmt.Errorf("%w: tree reduce: partial %d of rank %d is node %v, must be %v", ErrMisuse, i, rank, have.Node, want[i])
		}
		if len(have.Data) != len(out) {
			return fmt.Errorf("%w: tree reduce: partial %v has %d elements, the result %d", ErrMisuse, have.Node, len(have.Data), len(out))
		}
	}
	return nil
}

// shapeOf digests what all ranks must agree on (FNV-1a).
func shapeOf(ranges []elastic.Range, shards int) uint32 {
	h := uint32(2166136261)
	mix := func(v int) {
		for range 4 {
			h = (h ^ uint32(v&0xff)) * 16777619
			v >>= 8
		}
	}
	mix(shards)
	for _, r := range ranges {
		mix(r.First)
		mix(r.End)
	}
	return h
}
