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
	defer func() { _ = c.await() }() // nothing refers to the buffers any more
	if !a.complete() {
		panic(fmt.Sprintf("worker: AllReduce of step %d before shard %d was added", c.number, a.next()))
	}
	if len(a.slots) == 0 || a.slots[0] == nil { // a range without shards
		a.slots = [][]float32{a.take()}
		clear(a.slots[0])
	}
	if s.preempt.Load() {
		tail(a.slots[0])[1] = 1
	}
	if c.gen.group != nil {
		if err := s.reduceAll(c); err != nil {
			return err
		}
		s.counters.bytes.Add(int64(4 * s.vec.len()))
	}
	if a.res != nil {
		a.res.keep()
	}
	s.vec.keep(a.slots[0], c.number)
	a.slots[0] = nil
	return nil
}

// reduceAll does what has not begun of the step's reduction, and waits for all of it. Gradients on the device are reduced there; two
// more rounds with everybody then say that nobody gave up meanwhile, and the tail's sum is the first: see team.
func (s *Session) reduceAll(c *step) error {
	a, g := c.sum, c.gen
	if a.res == nil {
		for c.started < len(s.vec.buckets) {
			s.startBucket(c)
		}
		return c.await()
	}
	if err := a.res.reduce(g.ctx, g.group); err != nil {
		return err
	}
	s.startReduction(c, bucket{lo: 0, hi: tailLen, exact: true})
	if err := c.await(); err != nil {
		return err
	}
	return g.group.Barrier(g.ctx)
}

// Ready says, while Gradients computes a shard, that the gradients of parameter number first and of all those registered
// after it are final: Gradients will not touch them again for this shard. In a program whose Plan says Overlap, their
// reduction over the workers begins now if this is the worker's last shard of the step, while backward goes on with the rest.
// Parameters are numbered from 0 in the order of Param. Calling it is never needed and never wrong if it is true.
func (s *Session) Ready(first int) {
	c := s.cur
	if !s.plan.Overlap || c == nil || c.sum == nil || c.sum.res != nil || c.gen.group == nil || !c.sum.last() || c.gen.ctx.Err() != nil {
		return
	}
	if first < 0 || first >= len(s.params) {
		panic(fmt.Sprintf("worker: Ready(%d) with %d parameters", first, len(s.params)))
	}
	if from, ok := s.mirror.of.(Fetcher); ok {
		s.fetch(c, from, first)
		return
	}
	// The last bucket has the loss.
	for c.started < len(s.vec.buckets)-1 && s.vec.buckets[c.started].hi <= s.vec.ends[first] {
		c.sum.put(s.params, s.vec.buckets[c.started].hi)
		if c.sum.err != nil {
			return
		}
		s.startBucket(c)
	}
}

// Bounds of a bucket that Config does not say, in bytes.
const (
	minBucket = 256 << 10
	maxBucket = 8 << 20
)

// bucketLen is the elements of a bucket, or 0 when all is reduced at once.
func (s *Session) bucketLen() int {
	if !s.plan.Overlap {
		return 0
	}
	n := s.cfg.BucketBytes
	if n <= 0 {
		for _, p := range s.params {
			n += len(p.grad) // a quarter, in bytes
		}
		n = min(max(n, minBucket), maxBucket)
	}
	return max(n/4, 1)
}

// startBucket begins the reduction of the step's next bucket, whose sum over all ranks comes into the first slot.
func (s *Session) startBucket(c *step) {
	c.started++
	s.startReduction(c, s.vec.buckets[c.started-1])
}

// startReduction begins the reduction of elements [b.lo, b.hi) of the slots.
func (s *Session) startReduction(c *step, b bucket) {
	g, a := c.gen, c.sum
	part := func(x []float32) []float32 { return x[b.lo:b.hi] }
	out := collective.Of(part(a.slots[0]))
	call := collective.Call{Kind: collective.OpAllReduce, Out: out, In: out}
	if s.cfg.Reduce == ReduceTree {
		call = collective.Call{Kind: collective.OpReduceTree, Out: out, Ranges: g.view.Ranges, Shards: s.plan.Shards}
		if s.vec.round && !b.exact {
			call.Wire = collective.WireBF16
		}
		for i, n := range elastic.Partials(a.r, s.plan.Shards) {
			call.Partials = append(call.Partials, collective.Partial{Node: n, Data: part(a.slots[i])})
		}
	}
	c.handles = append(c.handles, g.group.Start(g.ctx, call))
}

// await waits for all reductions of the step that began, and gives the first error.
func (c *step) await() error {
	c.join()
	var err error
	for _, h := range c.handles {
		if e := h.Wait(); err == nil {
			err = e
		}
	}
	c.handles = nil
	return err
}

// deliver makes the gradients the step's sum, and says whether it is finite.
func (s *Session) deliver(c *step) (infinite bool, err error) {
	if c.sum.res == nil {
		return s.vec.deliver(s.params), nil
	}
	infinite, err = c.sum.res.deliver(s.params)
	s.vec.infinite = infinite || !allFinite(tail(s.vec.reduced))
	return s.vec.infinite, err
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
