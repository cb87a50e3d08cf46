package collective

import (
	"fmt"
	"slices"

	"github.com/farandole-ml/farandole/elastic"
	"github.com/farandole-ml/farandole/kernels"
)

// treePlan is the reduction tree of one set of ranges, as programs of kernels.Reduction.
type treePlan struct {
	id      uint32 // changes with the ranges
	ranges  []elastic.Range
	shards  int
	nodes   [][]elastic.Range // the partials of each rank
	code    []int16           // the whole tree over all partials, in rank order
	byHost  [][]int16         // each host's node over its partials
	hosts   []int16           // the whole tree over the hosts' nodes; nil: a host owns no node
	halving bool              // the ranks' balanced tree is the tree
	full    bool              // every rank has a partial
}

// update makes the plan be that of ranges; nothing happens when it is already.
func (t *treePlan) update(ranges []elastic.Range, shards int, h *hosts) error {
	world := len(h.of)
	if t.code != nil && t.shards == shards && slices.Equal(t.ranges, ranges) {
		return nil
	}
	*t = treePlan{id: t.id + 1}
	if len(ranges) != world || shards < 1 || shards > kernels.MaxSources {
		return fmt.Errorf("%w: tree reduce got %d ranges of %d shards for %d ranks", ErrMisuse, len(ranges), shards, world)
	}
	next := 0
	t.full = true
	for r, of := range ranges {
		if of.First != next || of.End < of.First || of.End > shards {
			return fmt.Errorf("%w: tree reduce: range %v of rank %d does not lie in [%d,%d)", ErrMisuse, of, r, next, shards)
		}
		next = of.End
		t.nodes = append(t.nodes, elastic.Partials(of, shards))
		t.full = t.full && len(t.nodes[r]) > 0
	}
	if next != shards {
		return fmt.Errorf("%w: tree reduce: the ranges end at shard %d of %d", ErrMisuse, next, shards)
	}
	t.ranges, t.shards = slices.Clone(ranges), shards
	t.halving = t.balanced()
	t.planHosts(h)
	t.code = compileTree(nil, slices.Concat(t.nodes...), elastic.Range{First: 0, End: shards})
	return nil
}

// compileTree appends the evaluation of node over leaves, which lie in order and may reach further on both sides.
func compileTree(code []int16, leaves []elastic.Range, node elastic.Range) []int16 {
	if i := slices.Index(leaves, node); i >= 0 {
		return append(code, int16(i))
	}
	left, right, _ := elastic.Children(node)
	return append(compileTree(compileTree(code, leaves, left), leaves, right), kernels.Combine)
}

// balanced says whether the ranks are a power of two, and rank r has the r-th node of one level of the tree.
func (t *treePlan) balanced() bool {
	world := len(t.nodes)
	if world&(world-1) != 0 {
		return false
	}
	level := []elastic.Range{{First: 0, End: t.shards}}
	for len(level) < world {
		var next []elastic.Range
		for _, n := range level {
			left, right, ok := elastic.Children(n)
			if !ok {
				return false
			}
			next = append(next, left, right)
		}
		level = next
	}
	for r, nodes := range t.nodes {
		if len(nodes) != 1 || nodes[0] != level[r] {
			return false
		}
	}
	return true
}

// planHosts finds out whether every host owns one node of the tree, so that it can send one partial.
func (t *treePlan) planHosts(h *hosts) {
	if h.kind() != SeveralHosts {
		return
	}
	var owned []elastic.Range
	for _, ranks := range h.groups {
		var leaves []elastic.Range
		for _, r := range ranks {
			leaves = append(leaves, t.nodes[r]...)
		}
		if len(leaves) == 0 {
			return
		}
		node := elastic.Range{First: leaves[0].First, End: leaves[0].First}
		for _, l := range leaves {
			if l.First != node.End {
				return
			}
			node.End = l.End
		}
		if !elastic.IsNode(node, t.shards) {
			return
		}
		owned = append(owned, node)
		t.byHost = append(t.byHost, compileTree(nil, leaves, node))
	}
	t.hosts = compileTree(nil, owned, elastic.Range{First: 0, End: t.shards})
}

// check says whether rank's arguments fit the plan.
func (t *treePlan) check(c *Call, rank int) error {
	want := t.nodes[rank]
	if len(c.Partials) != len(want) {
		return fmt.Errorf("%w: tree reduce: rank %d has %d partials, its range %v of %d shards needs %v", ErrMisuse, rank, len(c.Partials), t.ranges[rank], t.shards, want)
	}
	for i, have := range c.Partials {
		if have.Node != want[i] {
			return fmt.Errorf("%w: tree reduce: partial %d of rank %d is node %v, must be %v", ErrMisuse, i, rank, have.Node, want[i])
		}
		if 4*len(have.Data) != len(c.Out.Data) {
			return fmt.Errorf("%w: tree reduce: partial %v has %d elements, the result %d", ErrMisuse, have.Node, len(have.Data), len(c.Out.Data)/4)
		}
	}
	return nil
}
