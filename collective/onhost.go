package collective

import (
	"fmt"

	"github.com/farandole-ml/farandole/elastic"
)

// onHost is the memory that the ranks of this host share in a group of several hosts, and what running an operation by
// it needs.
type onHost struct {
	memory SharedMemory // nil: they share none
	greet  plan
	call   Call // the running round's

	// of the group's treePlan with number tree
	tree   uint32
	ranges []elastic.Range // of this host's shards, from 0
	nodes  []Partial
	first  int // this host's first shard
	shards int
}

// usesHost says whether a carries c out by Group.byHost. On a host without such memory the same messages go across.
func (g *Group) usesHost(c *Call, a Algorithm) bool {
	return a == Hierarchical && g.onHost.memory != nil && g.ranks == nil && c.part() > 0 &&
		g.hosts.kind() == SeveralHosts && (c.Kind != OpReduceTree || g.tree.hosts != nil)
}

// byHost reduces c hierarchically: inside this host in the memory of its ranks; across hosts by the messages of owners; then in
// memory again. Each of the three ends before the next begins: a rank that waits in memory sends nothing.
func (g *Group) byHost(op Op, c *Call) error {
	h := &g.onHost
	if h.greet.world == 0 {
		h.greet.reset(g.World(), g.rank)
		h.greet.greet()
	}
	if err := g.perform(&h.greet, c); err != nil {
		return err
	}
	defer func() { h.call = Call{} }()
	part := g.hostParts(c)
	if err := g.reduceOnHost(op, c, part); err != nil {
		return err
	}
	if err := g.perform(g.planFor(c, Hierarchical), c); err != nil {
		return err
	}
	return g.spreadOnHost(op, c, part)
}

// hostParts cuts c as owners does.
func (g *Group) hostParts(c *Call) grid {
	return newGrid(c.part(), g.hosts.owners(), g.tuning.ChunkBytes, c.Out.Type.Size())
}

// even says whether every rank of this host owns as much as the others.
func (g *Group) even(part grid) bool {
	return part.world == len(g.here()) && part.bytes%(part.unit*part.world) == 0
}

// here is the ranks on this host.
func (g *Group) here() []int { return g.hosts.groups[g.hosts.of[g.rank]] }

// reduceOnHost makes Out this host's value: at least the part that this rank owns.
func (g *Group) reduceOnHost(op Op, c *Call, part grid) error {
	k := &g.onHost.call
	if c.Kind == OpReduceTree {
		g.treeOnHost(c)
		return g.doOnHost(op)
	}
	*k = Call{Kind: OpAllReduce, Out: c.Out, In: c.In, Op: c.Op}
	if c.Op == Avg {
		k.Op = Sum
	}
	if g.even(part) {
		k.Kind = OpReduceScatter
		k.Out.Data = ofSpan(c.Out.Data, part.segment(g.hosts.index[g.rank]))
	}
	return g.doOnHost(op)
}

// treeOnHost makes the call of this host's node: its shards counted from 0 have a tree of the same form.
func (g *Group) treeOnHost(c *Call) {
	h := &g.onHost
	if h.tree != g.tree.id {
		h.tree, h.shards, h.ranges = g.tree.id, 0, h.ranges[:0]
		for _, r := range g.here() { // their nodes are one: the ranges lie side by side
			of := g.tree.ranges[r]
			if h.shards == 0 {
				h.first = of.First
			}
			h.ranges = append(h.ranges, elastic.Range{First: h.shards, End: h.shards + of.Len()})
			h.shards += of.Len()
		}
	}
	h.nodes = h.nodes[:0]
	for _, p := range c.Partials {
		node := elastic.Range{First: p.Node.First - h.first, End: p.Node.End - h.first}
		h.nodes = append(h.nodes, Partial{Node: node, Data: p.Data})
	}
	h.call = Call{Kind: OpReduceTree, Out: c.Out, Partials: h.nodes, Ranges: h.ranges, Shards: h.shards, Wire: c.Wire}
}

// spreadOnHost gives every owner's part to the others on this host.
func (g *Group) spreadOnHost(op Op, c *Call, part grid) error {
	k := &g.onHost.call
	if g.even(part) {
		*k = Call{Kind: OpAllGather, Out: c.Out, In: c.Out}
		k.In.Data = ofSpan(c.Out.Data, part.segment(g.hosts.index[g.rank]))
		return g.doOnHost(op)
	}
	for owner := range part.world {
		s := part.segment(owner)
		if s.lo == s.hi {
			continue
		}
		*k = Call{Kind: OpBroadcast, Out: c.Out, Root: owner}
		k.Out.Data = ofSpan(c.Out.Data, s)
		if err := g.doOnHost(op); err != nil {
			return err
		}
	}
	return nil
}

func ofSpan(b []byte, s span) []byte { return b[s.lo:s.hi] }

// doOnHost carries out the call of this round, by which op is told apart from others.
func (g *Group) doOnHost(op Op) error {
	op.Kind = g.onHost.call.Kind
	handled, err := g.onHost.memory.Do(op, &g.onHost.call)
	if err == nil && !handled {
		err = fmt.Errorf("%w: the transport cannot do %v in the memory of a host", ErrMisuse, op)
	}
	return err
}
