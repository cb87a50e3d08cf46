package worker

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"

	"github.com/farandole-ml/farandole/collective"
	"github.com/farandole-ml/farandole/elastic"
)

// reduce sums the step over the generation's group. The result replaces the kept reduced vector only when it
// is complete: a worker always holds the sum of its last applied step.
func (s *Session) reduce(c *step) error {
	a := c.sum
	defer a.release()
	if !a.complete() {
		panic(fmt.Sprintf("worker: AllReduce of step %d before shard %d was added", c.number, a.next()))
	}
	if len(a.slots) == 0 || a.slots[0] == nil { // a range without shards
		a.slots = [][]float32{s.vec.take()}
		clear(a.slots[0])
	}
	if s.preempt.Load() {
		a.slots[0][s.vec.grads+1] = 1
	}
	if g := c.gen; g.group != nil {
		if err := s.communicate(g, a); err != nil {
			return err
		}
		s.counters.bytes.Add(int64(4 * s.vec.len()))
	}
	s.vec.keep(a.slots[0], c.number)
	a.slots[0] = nil
	return nil
}

// communicate leaves the sum over all ranks in the first slot.
func (s *Session) communicate(g *generation, a *accumulation) error {
	if s.cfg.Reduce == ReduceRing {
		sum := collective.Of(a.slots[0])
		return g.group.AllReduce(g.ctx, sum, sum, collective.Sum)
	}
	nodes := elastic.Partials(a.r, s.plan.Shards)
	partials := make([]collective.Partial, len(nodes))
	for i, n := range nodes {
		partials[i] = collective.Partial{Node: n, Data: a.slots[i]}
	}
	return g.group.ReduceTree(g.ctx, a.slots[0], partials, g.view.Ranges, s.plan.Shards)
}

// originLen is what ranks tell each other of where a NaN came from: shard and tensor, four bytes each.
const originLen = 8

const originUnknown = "; the workers could not tell each other which shard brought it"

// origin names the first shard and tensor, over all ranks, that brought a NaN or Inf into the step. All ranks come here
// or none: they all have the same sum. When the group breaks meanwhile the origin stays unknown.
func (s *Session) origin(c *step) string {
	own := make([]byte, originLen)
	binary.LittleEndian.PutUint32(own, uint32(c.sum.badShard))
	binary.LittleEndian.PutUint32(own[4:], uint32(c.sum.badTensor))
	all := own
	if g := c.gen; g.group != nil {
		all = make([]byte, originLen*g.world())
		if err := g.group.AllGather(g.ctx, collective.Of(all), collective.Of(own)); err != nil {
			return originUnknown
		}
	}
	shard, tensor := math.MaxInt, finite
	for ; len(all) > 0; all = all[originLen:] {
		n, t := int(binary.LittleEndian.Uint32(all)), int(binary.LittleEndian.Uint32(all[4:]))
		if t != finite && n < shard {
			shard, tensor = n, t
		}
	}
	switch {
	case tensor == finite:
		return "; every shard's gradient is finite, their sum is not"
	case tensor >= len(s.params):
		return fmt.Sprintf(": the loss of shard %d brought it", shard)
	}
	return fmt.Sprintf(": shard %d brought it, in %s", shard, s.params[tensor].name)
}

// notFinite ends the job or leaves out the update, as the policy says.
func (s *Session) notFinite(ctx context.Context, c *step, origin string) error {
	if s.cfg.NaN == NaNSkip {
		s.log.Warn("the update is left out: the gradient is not finite", "step", c.number, "gen", c.gen.number(), "where", origin)
		s.counters.skipped.Add(1)
		s.Commit(ctx)
		return ErrSkipped
	}
	if origin == originUnknown { // a rank that knows more ends the job in these moments, unless it is the one that is lost
		within, cancel := context.WithTimeout(ctx, failPatience*s.cfg.Liveness)
		_ = s.watch(within, func() bool { return false })
		cancel()
	}
	if s.pos.ending() != nil {
		s.pos.settle(nil)
		s.cur = nil
		return collective.ErrClosed
	}
	err := fmt.Errorf("step %d: the gradient has a NaN or Inf%s; lower the learning rate, look at that shard's data, or use the policy skip",
		c.number, origin)
	s.fail(err)
	return err
}
