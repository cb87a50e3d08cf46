package collective

import (
	"context"
	"fmt"
)

// do runs a call that the caller keeps in memory of its own.
func (g *Group) do(ctx context.Context, c *Call) error {
	op, a, w, err := g.admit(ctx, c)
	if err != nil {
		return err
	}
	defer g.state.leave(w)
	return g.execute(op, c, a)
}

// byValue is Do for a call that is on its caller's stack, where it can stay: the running operation sees a copy.
func (g *Group) byValue(ctx context.Context, c Call) error {
	if err := g.await(ctx); err != nil {
		return err
	}
	op, a, w, err := g.admit(ctx, &c)
	if err != nil {
		return err
	}
	defer g.state.leave(w)
	g.call = c
	defer func() { g.call = Call{} }()
	return g.execute(op, &g.call, a)
}

// admit checks c, names it, and makes it the operation that runs, until state.leave(w). A call that it refuses ends the group.
func (g *Group) admit(ctx context.Context, c *Call) (op Op, a Algorithm, w *watch, err error) {
	if op, a, err = g.prepare(c); err == nil {
		w, err = g.state.enter(ctx, &op, &g.seq)
	}
	if err != nil {
		return Op{}, Auto, nil, g.state.fail(err)
	}
	return op, a, w, nil
}

// prepare checks c and names it.
func (g *Group) prepare(c *Call) (Op, Algorithm, error) {
	if err := c.check(g.rank, g.World()); err != nil {
		return Op{}, Auto, err
	}
	a, err := g.choose(c)
	if err != nil {
		return Op{}, Auto, err
	}
	return g.describe(c, a), a, nil
}

// choose is the algorithm of c: the call's own, the group's, the transport's own memory, or the table's.
func (g *Group) choose(c *Call) (Algorithm, error) {
	a := c.Algorithm
	if a == Auto && (g.tuning.Algorithm == Shared || c.Kind.has(g.tuning.Algorithm)) {
		a = g.tuning.Algorithm
	}
	memory := g.shared != nil && g.ranks == nil
	switch {
	case a == Shared && !memory:
		return a, fmt.Errorf("%w: %v in shared memory: this group's transport, or a sub-group, has none", ErrMisuse, c.Kind)
	case a == Auto && memory:
		return Shared, nil
	case a == Auto:
		return g.byMessages(c), nil
	}
	return a, nil
}

// Algorithm is what c would be run by now: its own, or what Auto comes to. For a c that cannot be run it is Auto.
// A transport may decline Shared for some operations, which then run by the table's choice.
func (g *Group) Algorithm(c *Call) Algorithm {
	_, a, err := g.prepare(c)
	if err != nil {
		return Auto
	}
	return a
}

// byMessages is the table's choice.
func (g *Group) byMessages(c *Call) Algorithm {
	bytes := max(len(c.Out.Data), len(c.In.Data))
	if c.Kind == OpReduce {
		bytes = len(c.In.Data) // the root's Out is longer than the others'
	}
	if a := g.tuning.Table.Choose(c.Kind, bytes, g.World(), g.hosts.kind()); a != Auto {
		return a
	}
	return messageAlgorithms[c.Kind][0]
}

// execute runs an operation that has been admitted.
func (g *Group) execute(op Op, c *Call, a Algorithm) error {
	if err := g.align(c); err != nil {
		return g.state.fail(err)
	}
	if w := g.wire(c); c.Kind == OpReduceTree && w != c.Wire {
		g.call = *c
		g.call.Wire = w
		c = &g.call
		defer func() { g.call = Call{} }()
	}
	if a == Shared {
		handled, err := g.shared.Do(op, c)
		if err != nil {
			return g.state.fail(err)
		}
		if handled {
			return nil
		}
		if c.Algorithm == Shared {
			return g.state.fail(fmt.Errorf("%w: the transport cannot do %v in shared memory", ErrMisuse, op))
		}
		a = g.byMessages(c)
	}
	if err := g.message(op, c, a); err != nil {
		return g.state.fail(err)
	}
	return nil
}

func (g *Group) pointToPoint(ctx context.Context, peer int, b []byte, send bool) error {
	if err := g.await(ctx); err != nil {
		return err
	}
	if peer < 0 || peer >= g.World() || peer == g.rank {
		return g.state.fail(fmt.Errorf("%w: rank %d of %d has no peer %d", ErrMisuse, g.rank, g.World(), peer))
	}
	w, err := g.state.enter(ctx, &Op{Kind: OpSendRecv}, nil)
	if err != nil {
		return g.state.fail(err)
	}
	defer g.state.leave(w)
	if send {
		err = g.tr.Send(g.peer(peer), b)
	} else {
		err = g.tr.Recv(g.peer(peer), b)
	}
	if err != nil {
		return g.state.fail(err)
	}
	return nil
}

// message runs c by messages.
func (g *Group) message(op Op, c *Call, a Algorithm) error {
	if c.Kind == OpReduceTree {
		if err := g.tree.update(c.Ranges, c.Shards, g.hosts); err != nil {
			return err
		}
		if err := g.tree.check(c, g.rank); err != nil {
			return err
		}
	}
	if g.usesHost(c, a) {
		return g.byHost(op, c)
	}
	return g.perform(g.planFor(c, a), c)
}
