package main

import (
	"context"
	"fmt"
	"time"
	"unsafe"

	"github.com/farandole-ml/farandole/collective"
)

// Limits of a rank.
const (
	benchForm    = 20 * time.Second // for all ranks to connect
	benchOpLimit = 60 * time.Second // for one sample, check or barrier
)

// A sample of a small operation is a batch of them, because reading the clock takes as long as one.
const (
	benchBatch      = 20
	benchBatchBytes = 64 << 10 // the largest operation that is batched
)

// How many samples a cell gets that does not say: as many as fit into benchBudget, within limits. Small operations need many, because the
// first ones find cold caches and sleeping processors.
const (
	benchBudget     = 200 * time.Millisecond
	minBenchSamples = 20
	maxBenchSamples = 2000
)

// benchResult is one cell on one rank.
type benchResult struct {
	Cell      int
	Wrong     int64
	Batch     int     // operations in a sample
	Nanos     []int64 // of each sample
	Algorithm string  // that was chosen
	Notes     []string
	Err       string
}

// batch is how many operations a sample has.
func (c benchCell) batch() int {
	if c.Bytes <= benchBatchBytes {
		return benchBatch
	}
	return 1
}

// benchRunner runs one cell's operation on one rank.
type benchRunner struct {
	group *collective.Group
	buf   *benchBuffers
	call  collective.Call
	ring  *benchRing // of sendrecv
}

// measureCell checks, warms up, times and checks again. All ranks call it with equal cells.
func measureCell(ctx context.Context, g *collective.Group, c benchCell) (res benchResult, err error) {
	buf, err := newBenchBuffers(g, c)
	if err != nil {
		return res, err
	}
	defer buf.release()
	r := &benchRunner{group: g, buf: buf}
	if err := r.prepare(); err != nil {
		return res, err
	}
	if buf.op.kind == collective.OpSendRecv {
		r.ring = startBenchRing(g)
		defer r.ring.stop()
	}
	res.Batch = c.batch()
	if err := r.check(ctx, 1, &res); err != nil {
		return res, err
	}
	buf.rest()
	if err := r.time(ctx, &res); err != nil {
		return res, err
	}
	res.Algorithm = r.chosen()
	return res, r.check(ctx, 2, &res)
}

// prepare makes the call.
func (r *benchRunner) prepare() (err error) {
	b := r.buf
	t := b.pattern.typ
	r.call = collective.Call{Kind: b.op.kind, Out: collective.Vector{Type: t, Data: b.out}, In: collective.Vector{Type: t, Data: b.in},
		Op: b.pattern.redop, Root: b.cell.Root}
	if b.cell.Algorithm == benchTree {
		r.call.Kind, r.call.Ranges, r.call.Shards = collective.OpReduceTree, b.ranges, b.shards
		for i, node := range b.nodes {
			r.call.Partials = append(r.call.Partials, collective.Partial{Node: node, Data: float32sOf(b.partial[i])})
		}
		return nil
	}
	if b.op.rooted && b.op.reduces && b.rank != b.cell.Root {
		r.call.Out = collective.Vector{}
	}
	if b.cell.Algorithm != "" {
		r.call.Algorithm, err = collective.ParseAlgorithm(b.cell.Algorithm)
	}
	return err
}

// float32sOf is b's memory.
func float32sOf(b []byte) []float32 {
	return unsafe.Slice((*float32)(unsafe.Pointer(unsafe.SliceData(b))), len(b)/4)
}

// once is one operation.
func (r *benchRunner) once(ctx context.Context) error {
	if r.ring != nil {
		return r.ring.exchange(ctx, r.buf.out, r.buf.in)
	}
	return r.group.Do(ctx, &r.call)
}

func within(ctx context.Context, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, benchOpLimit, fmt.Errorf("no end within %s", benchOpLimit))
	defer cancel()
	return f(ctx)
}

// check runs a pass of known inputs.
func (r *benchRunner) check(ctx context.Context, pass int, res *benchResult) error {
	if !r.buf.cell.Check {
		return nil
	}
	r.buf.fill(pass)
	if err := within(ctx, r.once); err != nil {
		return err
	}
	res.Wrong += r.buf.wrong(pass)
	return within(ctx, r.group.Barrier)
}

// time takes the samples. Ranks begin each together, as the peers' benchmarks do, and a batch runs back to back.
func (r *benchRunner) time(ctx context.Context, res *benchResult) error {
	c := r.buf.cell
	for range c.Warmup {
		if err := within(ctx, r.once); err != nil {
			return err
		}
	}
	samples, err := r.samples(ctx, res.Batch)
	if err != nil {
		return err
	}
	limit := benchOpLimit * time.Duration(samples)
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("no end within %s", limit))
	defer cancel()
	res.Nanos = make([]int64, 0, samples)
	for range samples {
		if err := r.group.Barrier(ctx); err != nil {
			return err
		}
		began := time.Now()
		for range res.Batch {
			if err := r.once(ctx); err != nil {
				return err
			}
		}
		res.Nanos = append(res.Nanos, time.Since(began).Nanoseconds())
	}
	return within(ctx, r.group.Barrier)
}

// samples is how many are to be taken: what the cell says, or what rank 0 finds after a trial.
func (r *benchRunner) samples(ctx context.Context, batch int) (int, error) {
	if n := r.buf.cell.Iters; n > 0 {
		return n, nil
	}
	if err := within(ctx, r.group.Barrier); err != nil {
		return 0, err
	}
	began := time.Now()
	for range batch {
		if err := within(ctx, r.once); err != nil {
			return 0, err
		}
	}
	n := []int64{int64(benchBudget / max(time.Since(began), 1))}
	err := within(ctx, func(ctx context.Context) error { return r.group.Broadcast(ctx, collective.Of(n), 0) })
	return int(min(max(n[0], minBenchSamples), maxBenchSamples)), err
}

// benchRing sends to the next rank beside receiving from the one before: the sends have a goroutine of their own.
type benchRing struct {
	group *collective.Group
	next  int
	prev  int
	work  chan benchSend
	done  chan error
	ended chan struct{}
}

type benchSend struct {
	ctx context.Context //nolint:containedctx // an argument on its way to another goroutine
	b   []byte
}

func startBenchRing(g *collective.Group) *benchRing {
	n := g.World()
	r := &benchRing{group: g, next: (g.Rank() + 1) % n, prev: (g.Rank() + n - 1) % n,
		work: make(chan benchSend), done: make(chan error), ended: make(chan struct{})}
	go func() {
		defer close(r.ended)
		for w := range r.work {
			r.done <- r.group.Send(w.ctx, r.next, w.b)
		}
	}()
	return r
}

// exchange returns when both directions are through; after an error of one the group's death ends the other.
func (r *benchRing) exchange(ctx context.Context, out, in []byte) error {
	r.work <- benchSend{ctx, in}
	err := r.group.Recv(ctx, r.prev, out)
	if serr := <-r.done; err == nil {
		err = serr
	}
	return err
}

func (r *benchRing) stop() {
	close(r.work)
	<-r.ended
}

// chosen names the algorithm of the call; what has none is its own.
func (r *benchRunner) chosen() string {
	switch {
	case r.ring != nil:
		return "point-to-point"
	case r.call.Kind == collective.OpReduceTree:
		return benchTree
	}
	return r.group.Algorithm(&r.call).String()
}
