// Package outer trains with little communication, for groups across regions: every replica of a model takes many steps by itself, and
// then all replicas are brought together by one outer step. This is DiLoCo (Douillard et al. 2023, "DiLoCo: Distributed Low-Communication
// Training of Language Models", Algorithm 1), with the inner optimizer left to the caller.
//
// With the common parameters θ and replicas θ_1 … θ_R after H inner steps, the outer step is
//
//	Δ = (1/R) Σ (θ - θ_i)      the average, in the order of the reduction tree over the replicas
//	v = μ·v + Δ                 Nesterov momentum
//	θ = θ - lr·(Δ + μ·v)        and θ_i = θ for all i
//
// in float32, every operation rounded once. So the parameters are a function of the replicas' parameters alone: the same bits on every
// rank, for every transport and algorithm, and whichever rank owns which replicas.
package outer

import (
	"context"
	"fmt"

	"github.com/farandole-ml/farandole/collective"
	"github.com/farandole-ml/farandole/elastic"
	"github.com/farandole-ml/farandole/kernels"
)

// Config has the outer optimizer's settings, equal on all ranks. The zero value is the paper's choice.
type Config struct {
	// Every is H, how many inner steps lie between two outer ones. More means less communication, and replicas that drift further
	// apart. Zero means 500.
	Every int

	// LR is the outer learning rate. 1 without momentum makes the outer step a plain average. Zero means 0.7.
	LR float32

	// Momentum is μ, less than 1. More averages over more outer steps. Zero means 0.9, negative means none.
	Momentum float32

	// Replicas is R, fixed for the training's life; the ranks own contiguous ranges of them, as equal as can be (elastic.Assign). More than
	// ranks lets the number of ranks change without changing a bit. Zero means one for each rank.
	Replicas int
}

func (c Config) withDefaults() Config {
	if c.Every == 0 {
		c.Every = 500
	}
	if c.LR == 0 {
		c.LR = 0.7
	}
	switch {
	case c.Momentum == 0:
		c.Momentum = 0.9
	case c.Momentum < 0:
		c.Momentum = 0
	}
	return c
}

func (c Config) validate() error {
	if c.Every < 0 || c.Replicas < 0 || !(c.LR > 0) || !(c.Momentum < 1) {
		return fmt.Errorf("outer: %d steps between outer steps, %d replicas, learning rate %g, momentum %g: the first three must be positive, momentum below 1",
			c.Every, c.Replicas, c.LR, c.Momentum)
	}
	return nil
}

// Replica is one copy of the model: its parameter tensors, which the caller's inner optimizer changes. All replicas have the same shapes.
type Replica [][]float32

// State is what an Optimizer remembers, for a checkpoint. It is equal on all ranks. The vectors have one tensor after the other. Between
// outer steps the replicas' own parameters belong into the checkpoint as well.
type State struct {
	Steps     int       // inner steps since the last outer one
	Rounds    int       // outer steps taken
	Reference []float32 // θ
	Momentum  []float32 // v
}

// Optimizer takes the outer steps for the replicas of one rank. It is used by one goroutine at a time, and outlives groups.
//
// It keeps θ, v, a sum, and a vector of the model's size for each tree node of the rank's replicas and for each level below it.
type Optimizer struct {
	cfg      Config
	replicas []Replica
	state    State

	sum      []float32
	scratch  [][]float32
	used     int // of scratch
	partials []collective.Partial
	ranges   []elastic.Range // of replicas, for a group of len(ranges)
	rank     int             // in that group
	nodes    []elastic.Range // of the rank's partials
	call     collective.Call
}

// New makes an Optimizer for the replicas that this rank owns, whose memory it shares. All replicas of all ranks are equal now (see Sync),
// and are θ.
func New(replicas []Replica, cfg Config) (*Optimizer, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	if len(replicas) == 0 {
		return nil, fmt.Errorf("outer: a rank without a replica: use no more ranks than replicas")
	}
	o := &Optimizer{cfg: cfg}
	for _, tensor := range replicas[0] {
		o.state.Reference = append(o.state.Reference, tensor...)
	}
	o.state.Momentum = make([]float32, len(o.state.Reference))
	o.sum = make([]float32, len(o.state.Reference))
	return o, o.SetReplicas(replicas)
}

// SetReplicas says which replicas this rank owns from now on, after a change of the group. It does not touch them.
func (o *Optimizer) SetReplicas(replicas []Replica) error {
	for i, r := range replicas {
		n := 0
		for k, tensor := range r {
			if len(r) == len(replicas[0]) && len(tensor) != len(replicas[0][k]) {
				n = -1
				break
			}
			n += len(tensor)
		}
		if n != len(o.state.Reference) || len(r) != len(replicas[0]) {
			return fmt.Errorf("outer: replica %d of this rank has other tensors than the model", i)
		}
	}
	o.replicas = replicas
	return nil
}

// State gives what belongs into a checkpoint. The slices are the Optimizer's own: read them before the next Step.
func (o *Optimizer) State() State { return o.state }

// SetState makes a copy of s the state, from a checkpoint. It does not touch the replicas.
func (o *Optimizer) SetState(s State) error {
	if n := len(o.state.Reference); len(s.Reference) != n || len(s.Momentum) != n || s.Steps < 0 || s.Steps >= o.cfg.Every {
		return fmt.Errorf("outer: a state of %d and %d values after %d inner steps does not fit a model of %d that has an outer step every %d",
			len(s.Reference), len(s.Momentum), s.Steps, n, o.cfg.Every)
	}
	copy(o.state.Reference, s.Reference)
	copy(o.state.Momentum, s.Momentum)
	o.state.Steps, o.state.Rounds = s.Steps, s.Rounds
	return nil
}

// Sync makes every rank's state that of rank root and every replica θ, as a collective of g: for ranks that join, or to go on after some
// ranks took an outer step that failed on others (root is then one with the most rounds). Inner steps since the last outer one are dropped.
func (o *Optimizer) Sync(ctx context.Context, g *collective.Group, root int) error {
	counts := []int64{int64(o.state.Rounds), int64(len(o.state.Reference))}
	if err := g.Broadcast(ctx, collective.Of(counts), root); err != nil {
		return err
	}
	if int(counts[1]) != len(o.state.Reference) {
		err := fmt.Errorf("outer: rank %d has a model of %d values, rank %d one of %d", root, counts[1], g.Rank(), len(o.state.Reference))
		g.Abort(err)
		return err
	}
	for _, v := range [][]float32{o.state.Reference, o.state.Momentum} {
		if err := g.Broadcast(ctx, collective.Of(v), root); err != nil {
			return err
		}
	}
	o.state.Rounds, o.state.Steps = int(counts[0]), 0
	o.load()
	return nil
}

// Step is called after every inner step, which all replicas take alike. Every Config.Every times it takes the outer step as a collective of g, leaves
// the new θ in all replicas, and returns true. After an error nothing has changed: call it again with the next group, without
// another inner step. In steady state it allocates nothing.
func (o *Optimizer) Step(ctx context.Context, g *collective.Group) (synced bool, err error) {
	if o.state.Steps+1 < o.cfg.Every {
		o.state.Steps++
		return false, nil
	}
	if err := o.reduce(ctx, g); err != nil {
		return false, err
	}
	o.update()
	o.load()
	o.state.Steps = 0
	o.state.Rounds++
	return true, nil
}

// reduce sums the deltas of all replicas.
func (o *Optimizer) reduce(ctx context.Context, g *collective.Group) error {
	replicas := o.cfg.Replicas
	if replicas == 0 {
		replicas = g.World()
	}
	if replicas < g.World() {
		return o.misuse(g, "%d replicas for %d ranks: every rank must own one", replicas, g.World())
	}
	if len(o.ranges) != g.World() || o.rank != g.Rank() {
		o.ranges, o.rank = elastic.Assign(replicas, g.World()), g.Rank()
		o.nodes = elastic.Partials(o.ranges[o.rank], replicas)
	}
	own := o.ranges[o.rank]
	if own.Len() != len(o.replicas) {
		return o.misuse(g, "rank %d of %d has %d replicas, must have number %v of %d (see SetReplicas)", o.rank, g.World(), len(o.replicas), own, replicas)
	}
	o.partials, o.used = o.partials[:0], 0
	for _, node := range o.nodes {
		o.partials = append(o.partials, collective.Partial{Node: node, Data: o.delta(node, own.First)})
	}
	o.call = collective.Call{
		Kind: collective.OpReduceTree, Out: collective.Of(o.sum), Partials: o.partials, Ranges: o.ranges, Shards: replicas,
	}
	return g.Do(ctx, &o.call)
}

func (o *Optimizer) misuse(g *collective.Group, format string, args ...any) error {
	err := fmt.Errorf("outer: "+format, args...)
	g.Abort(err)
	return err
}

// delta is Σ (θ - θ_i) over the replicas of node, in the order of the tree, in scratch memory. The first own replica is number first.
func (o *Optimizer) delta(node elastic.Range, first int) []float32 {
	left, right, ok := elastic.Children(node)
	if ok {
		sum := o.delta(left, first)
		used := o.used
		kernels.AddF32(sum, sum, o.delta(right, first))
		o.used = used
		return sum
	}
	if o.used == len(o.scratch) {
		o.scratch = append(o.scratch, make([]float32, len(o.state.Reference)))
	}
	d := o.scratch[o.used]
	o.used++
	at := 0
	for _, tensor := range o.replicas[node.First-first] {
		reference := o.state.Reference[at:][:len(tensor)]
		to := d[at:][:len(tensor)]
		for i, x := range tensor {
			to[i] = reference[i] - x
		}
		at += len(tensor)
	}
	return d
}

// update makes θ and v the next ones. The conversions keep every product from being fused with a sum.
func (o *Optimizer) update() {
	replicas := float32(o.call.Shards)
	reference, momentum := o.state.Reference, o.state.Momentum
	for i, sum := range o.sum {
		delta := sum / replicas
		v := float32(o.cfg.Momentum*momentum[i]) + delta
		momentum[i] = v
		reference[i] -= float32(o.cfg.LR * (delta + float32(o.cfg.Momentum*v)))
	}
}

// load makes all replicas θ.
func (o *Optimizer) load() {
	for _, r := range o.replicas {
		at := 0
		for _, tensor := range r {
			copy(tensor, o.state.Reference[at:])
			at += len(tensor)
		}
	}
}
