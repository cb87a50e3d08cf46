//go:build linux

package shm

import (
	"fmt"
	"slices"
	"unsafe"

	"github.com/farandole-ml/farandole/collective"
	"github.com/farandole-ml/farandole/elastic"
	"github.com/farandole-ml/farandole/kernels"
)

// treePlan is the reduction tree over the partials of all ranks, in rank order, for one set of ranges.
type treePlan struct {
	ranges []elastic.Range
	shards int
	nodes  [][]elastic.Range // of each rank's partials
	counts []int             // of each rank's partials
	leaves int               // of the tree
	most   int               // partials of one rank, at least one
	order  []int16
}

// prepareTree checks the arguments of a tree reduction and plans it.
func (t *member) prepareTree(c *collective.Call) error {
	k := &t.task
	if err := k.plan.update(c.Ranges, c.Shards, len(t.peers)); err != nil {
		return err
	}
	if k.plan.most > t.stageBytes/lineBytes {
		return fmt.Errorf("%w: tree reduce: a rank has %d partials, and a stage of %d bytes has room for %d", collective.ErrMisuse, k.plan.most, t.stageBytes, t.stageBytes/lineBytes)
	}
	want := k.plan.nodes[t.id.Rank]
	if len(c.Partials) != len(want) {
		return fmt.Errorf("%w: tree reduce: rank %d has %d partials, its range %v of %d shards needs %v", collective.ErrMisuse, t.id.Rank, len(c.Partials), c.Ranges[t.id.Rank], c.Shards, want)
	}
	for i, have := range c.Partials {
		if have.Node != want[i] {
			return fmt.Errorf("%w: tree reduce: partial %d of rank %d is node %v, must be %v", collective.ErrMisuse, i, t.id.Rank, have.Node, want[i])
		}
		if 4*len(have.Data) != len(k.out) {
			return fmt.Errorf("%w: tree reduce: partial %v has %d elements, the result %d", collective.ErrMisuse, have.Node, len(have.Data), len(k.out)/4)
		}
	}
	k.red = kernels.Reduction{Type: kernels.Float32, Op: kernels.Sum, Order: k.plan.order, Round: c.Wire == collective.WireBF16}
	return nil
}

// update makes the plan be that of ranges; nothing happens when it is already.
func (p *treePlan) update(ranges []elastic.Range, shards, world int) error {
	if p.order != nil && p.shards == shards && slices.Equal(p.ranges, ranges) {
		return nil
	}
	*p = treePlan{}
	if len(ranges) != world || shards < 1 {
		return fmt.Errorf("%w: tree reduce got %d ranges of %d shards for %d ranks", collective.ErrMisuse, len(ranges), shards, world)
	}
	next := 0
	var leaves []elastic.Range
	for r, of := range ranges {
		if of.First != next || of.End < of.First || of.End > shards {
			return fmt.Errorf("%w: tree reduce: range %v of rank %d does not lie in [%d,%d)", collective.ErrMisuse, of, r, next, shards)
		}
		next = of.End
		nodes := elastic.Partials(of, shards)
		p.nodes = append(p.nodes, nodes)
		p.counts = append(p.counts, len(nodes))
		p.most = max(p.most, len(nodes), 1)
		leaves = append(leaves, nodes...)
	}
	if next != shards {
		return fmt.Errorf("%w: tree reduce: the ranges end at shard %d of %d", collective.ErrMisuse, next, shards)
	}
	if p.leaves = len(leaves); p.leaves > kernels.MaxSources {
		return fmt.Errorf("%w: tree reduce of %d partials: at most %d", collective.ErrMisuse, p.leaves, kernels.MaxSources)
	}
	p.compile(leaves, 0, elastic.Range{First: 0, End: shards})
	p.ranges, p.shards = slices.Clone(ranges), shards
	return nil
}

// compile appends the evaluation of node, whose first partial is leaf number next, and gives the number after its last.
func (p *treePlan) compile(leaves []elastic.Range, next int, node elastic.Range) int {
	if leaves[next] == node {
		p.order = append(p.order, int16(next))
		return next + 1
	}
	left, right, _ := elastic.Children(node)
	next = p.compile(leaves, next, left)
	next = p.compile(leaves, next, right)
	p.order = append(p.order, kernels.Combine)
	return next
}

func bytesOf(f []float32) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(f))), 4*len(f))
}
