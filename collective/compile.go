package collective

import "github.com/farandole-ml/farandole/kernels"

// planKey is all that a plan depends on, within one group.
type planKey struct {
	kind      OpKind
	algorithm Algorithm
	dtype     DType
	op        RedOp
	wire      Wire
	inPlace   bool // Out begins where In does
	root      int32
	tree      uint32 // of the treePlan
	bytes     int    // Call.part
}

// spec is what a plan is made from.
type spec struct {
	planKey
	chunk int
	size  int // of an element
	hosts *hosts
	near  bool      // the rounds inside this host need no messages
	tree  *treePlan // of OpReduceTree
	root  int
}

// sources is how many values rank brings in.
func (s *spec) sources(rank int) int {
	if s.kind == OpReduceTree {
		return len(s.tree.nodes[rank])
	}
	return 1
}

// source is the buffer of a rank's k-th value.
func (s *spec) source(k int) buffer {
	if s.kind == OpReduceTree {
		return bufPartial + buffer(k)
	}
	return bufIn
}

// everyRankSends says whether every rank brings a value in.
func (s *spec) everyRankSends() bool { return s.kind != OpReduceTree || s.tree.full }

// redHost is the reduction of a host's values to one.
func (s *spec) redHost(host int) int {
	if s.kind == OpReduceTree {
		return redLast + 1 + host
	}
	return redPlain
}

// maxPlans bounds what a group remembers of the shapes it has met.
const maxPlans = 256

// planFor gives the plan of c by algorithm a. The group's tree plan must be that of c.
func (g *Group) planFor(c *Call, a Algorithm) *plan {
	key := planKey{kind: c.Kind, algorithm: a, dtype: Uint8, bytes: c.part()}
	switch {
	case c.Kind == OpReduceTree:
		key.dtype, key.tree, key.wire = Float32, g.tree.id, g.wire(c)
	case c.Kind.reduces():
		key.dtype, key.op = c.In.Type, c.Op
	case c.Kind == OpAllToAll && key.bytes > 0:
		key.inPlace = &c.Out.Data[0] == &c.In.Data[0]
	}
	if c.Kind.rooted() {
		key.root = int32(c.Root)
	}
	p := g.plans[key]
	if p != nil {
		return p
	}
	if len(g.plans) < maxPlans {
		p = &plan{}
	} else {
		for k, old := range g.plans { // any one
			delete(g.plans, k)
			p = old
			break
		}
	}
	p.reset(g.World(), g.rank)
	s := &spec{
		planKey: key, chunk: g.tuning.ChunkBytes, size: key.dtype.Size(),
		hosts: g.hosts, near: g.usesHost(c, a), tree: &g.tree, root: int(key.root),
	}
	p.compile(s, g.tuning.DirectBytes)
	g.plans[key] = p
	return p
}

// wire is the form in which c's values travel.
func (g *Group) wire(c *Call) Wire { return max(c.Wire, g.tuning.Wire) }

func (p *plan) compile(s *spec, direct int) {
	switch {
	case s.kind == OpBarrier || s.bytes == 0:
		p.dissemination()
		return
	case s.kind == OpReduceTree:
		p.treeArithmetic(s)
	case s.kind.reduces():
		op, divisor := s.op.kernel(p.world)
		p.arithmetic(kernels.Reduction{Type: s.dtype, Op: op, Divisor: divisor})
	}
	if p.world == 1 {
		p.alone(s)
		return
	}
	switch s.kind {
	case OpAllReduce, OpReduceTree:
		p.compileAllReduce(s, direct)
	case OpReduceScatter:
		if s.algorithm == Ring {
			p.ringReduceScatter(s)
		} else {
			p.directReduceScatter(s)
		}
	case OpAllGather:
		if s.algorithm == Ring {
			p.ringAllGather(s)
		} else {
			p.directAllGather(s)
		}
	case OpBroadcast:
		if s.algorithm == Direct {
			p.directBroadcast(s)
		} else {
			p.relayBroadcast(s, s.algorithm == Ring)
		}
	case OpReduce:
		if s.algorithm == Direct {
			p.directReduce(s)
		} else {
			p.relayReduce(s, s.algorithm == Ring)
		}
	case OpAllToAll:
		p.directAllToAll(s)
	}
}

func (p *plan) compileAllReduce(s *spec, direct int) {
	values := 0
	for r := range p.world {
		values += s.sources(r)
	}
	switch {
	case s.algorithm == Ring:
		p.ringAllReduce(s)
	case s.algorithm == BinaryTree:
		p.treeAllReduce(s)
	case s.algorithm == HalvingDoubling && (s.kind != OpReduceTree || s.tree.halving):
		p.halvingDoubling(s)
	case s.algorithm == Hierarchical && s.hosts.kind() == SeveralHosts && (s.kind != OpReduceTree || s.tree.hosts != nil):
		p.byOwners(s, s.hosts)
	case s.bytes <= direct/max(values-1, 1):
		p.oneRound(s)
	default:
		s.chunk = min(s.chunk, max(ownersRoom/values/lineBytes*lineBytes, ownersChunk))
		p.byOwners(s, oneHost(p.world))
	}
}

// An owner keeps a chunk of every rank's values at a time: ownersRoom bytes of them, unless chunks would get
// smaller than ownersChunk.
const (
	ownersRoom  = 16 << 20
	ownersChunk = 64 << 10
)

// alone is an operation of one rank.
func (p *plan) alone(s *spec) {
	whole := span{0, s.bytes}
	switch s.kind {
	case OpBroadcast:
	case OpAllGather, OpAllToAll:
		p.copy(whole.at(bufOut), whole.at(bufIn))
	default:
		p.reduce(redLast, whole.at(bufOut), whole.at(s.source(0)))
	}
}

// treeArithmetic sets the reductions of a tree: redPlain adds two nodes, redLast is the tree over what the algorithm's
// last reduction gets, and after it each host's.
func (p *plan) treeArithmetic(s *spec) {
	sum := kernels.Reduction{Type: Float32, Op: kernels.Sum, Round: s.wire == WireBF16}
	p.narrow = sum.Round
	last := sum
	switch {
	case s.algorithm == HalvingDoubling && s.tree.halving:
	case s.algorithm == Hierarchical && s.tree.hosts != nil:
		last.Order = s.tree.hosts
	default:
		last.Order = s.tree.code
	}
	p.reductions = append(p.reductions, sum, last)
	for _, code := range s.tree.byHost {
		r := sum
		r.Order = code
		p.reductions = append(p.reductions, r)
	}
}
