package worker

import (
	"math"
	"sync"
	"sync/atomic"

	"github.com/farandole-ml/farandole/elastic"
	"github.com/farandole-ml/farandole/kernels"
)

type param struct {
	name        string
	value, grad []float32
}

// vector is what is reduced: all gradients in registration order, then the loss, then the votes to stop.
// It owns the buffers of that length. The last reduced one is kept, and replaced by the next only once that is complete, so that
// a worker that is one step behind can have it.
type vector struct {
	grads   int // elements of all gradients
	pieces  []piece
	threads int

	free      [][]float32
	reduced   []float32 // nil before the first
	step      elastic.Step
	committed elastic.Step
	infinite  bool // reduced has a NaN or Inf; known after deliver
}

// piece is a part of one parameter's gradient that is worked on at once: small enough that a second pass over
// it reads the cache.
type piece struct {
	tensor  int
	at, off int // in the vector, in the tensor
	n       int
}

// pieceLen is the elements of a piece: 64 KiB. serialLen is the vector length up to which one thread is faster.
const (
	pieceLen  = 16 << 10
	serialLen = 256 << 10
)

// finite means that no tensor was found to have a NaN or Inf.
const finite = math.MaxInt32

func (v *vector) lay(params []param) {
	for t, p := range params {
		for off := 0; off < len(p.grad); off += pieceLen {
			v.pieces = append(v.pieces, piece{t, v.grads + off, off, min(pieceLen, len(p.grad)-off)})
		}
		v.grads += len(p.grad)
	}
}

func (v *vector) len() int { return v.grads + 2 }

func (v *vector) take() []float32 {
	if n := len(v.free); n > 0 {
		b := v.free[n-1]
		v.free = v.free[:n-1]
		return b
	}
	return make([]float32, v.len())
}

func (v *vector) give(b []float32) {
	if b != nil {
		v.free = append(v.free, b)
	}
}

// keep makes b the reduced vector of a step.
func (v *vector) keep(b []float32, step elastic.Step) {
	v.give(v.reduced)
	v.reduced, v.step = b, step
}

// lose forgets the reduced vector.
func (v *vector) lose() {
	v.give(v.reduced)
	v.reduced, v.step = nil, 0
}

// loss is the mean over the shards of the reduced step.
func (v *vector) loss(shards int) float64 { return float64(v.reduced[v.grads]) / float64(shards) }

// vote says whether anyone asked to stop after the reduced step.
func (v *vector) vote() bool { return v.reduced[v.grads+1] > 0 }

// each runs f over all pieces, on as many threads as pay.
func (v *vector) each(f func(p piece)) {
	if v.threads < 2 || v.grads < serialLen {
		for _, p := range v.pieces {
			f(p)
		}
		return
	}
	var next atomic.Int64
	var wg sync.WaitGroup
	for range v.threads {
		wg.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= len(v.pieces) {
					return
				}
				f(v.pieces[i])
			}
		})
	}
	wg.Wait()
}

// collect puts the gradients and the loss of one shard into dst, added to what is there if plus is true, and
// zeroes the gradients. It gives the first tensor that is not finite, len(params) for the loss, or finite.
func (v *vector) collect(dst []float32, params []param, loss float32, plus bool) int {
	var first atomic.Int32
	first.Store(finite)
	v.each(func(p piece) {
		g := params[p.tensor].grad[p.off : p.off+p.n]
		d := dst[p.at : p.at+p.n]
		if plus {
			plusEqual(d, g)
		} else {
			copy(d, g)
		}
		if !allFinite(g) {
			lower(&first, int32(p.tensor))
		}
		clear(g)
	})
	if !plus {
		dst[v.grads], dst[v.grads+1] = 0, 0
	}
	dst[v.grads] += loss
	if x := float64(loss); math.IsNaN(x) || math.IsInf(x, 0) {
		lower(&first, int32(len(params)))
	}
	return int(first.Load())
}

func lower(v *atomic.Int32, to int32) {
	for {
		old := v.Load()
		if old <= to || v.CompareAndSwap(old, to) {
			return
		}
	}
}

// plus does a += b.
func (v *vector) plus(a, b []float32) {
	v.each(func(p piece) { plusEqual(a[p.at:p.at+p.n], b[p.at:p.at+p.n]) })
	plusEqual(a[v.grads:], b[v.grads:])
}

// deliver copies the reduced vector into the gradients and says whether it has a NaN or Inf.
func (v *vector) deliver(params []param) bool {
	var bad atomic.Bool
	v.each(func(p piece) {
		g := params[p.tensor].grad[p.off : p.off+p.n]
		copy(g, v.reduced[p.at:p.at+p.n])
		if !allFinite(g) {
			bad.Store(true)
		}
	})
	v.infinite = bad.Load() || !allFinite(v.reduced[v.grads:])
	return v.infinite
}

// plusEqual does a[i] += b[i].
func plusEqual(a, b []float32) { kernels.AddF32(a, a, b) }

// allFinite says that b has no NaN and no Inf.
func allFinite(b []float32) bool { return kernels.FirstNonFinite(b) < 0 }

// accumulation merges one worker's shards of one step, as the reduction tree says.
type accumulation struct {
	v      *vector
	r      elastic.Range
	merger *elastic.Merger // nil when shards are summed one after the other
	at     int             // next shard
	slots  [][]float32

	badShard, badTensor int // first own shard with a NaN or Inf; badTensor is finite when there is none
}

func (v *vector) accumulate(r elastic.Range, shards int, tree bool) *accumulation {
	a := &accumulation{v: v, r: r, at: r.First, badTensor: finite}
	if tree {
		a.merger = elastic.NewMerger(r, shards)
		a.slots = make([][]float32, elastic.Slots(r, shards))
	} else {
		a.slots = make([][]float32, 1)
	}
	return a
}

func (a *accumulation) next() int { return a.at }

func (a *accumulation) complete() bool { return a.at == a.r.End }

// add closes the next shard. A shard that completes a node is added to its sibling straight from the gradients.
func (a *accumulation) add(params []param, loss float64) {
	m := elastic.MergeStep{Slot: 0}
	if a.merger != nil {
		m, _ = a.merger.Next()
	} else if a.at > a.r.First {
		m.Slot, m.Merges = 1, []elastic.Merge{{Into: 0, From: 1}}
	}
	slot, merges := m.Slot, m.Merges
	plus := len(merges) > 0 && merges[0].From == slot
	if plus {
		slot, merges = merges[0].Into, merges[1:]
	} else {
		a.slots[slot] = a.v.take()
	}
	if bad := a.v.collect(a.slots[slot], params, float32(loss), plus); bad != finite && a.badTensor == finite {
		a.badShard, a.badTensor = a.at, bad
	}
	for _, g := range merges {
		a.v.plus(a.slots[g.Into], a.slots[g.From])
		a.v.give(a.slots[g.From])
		a.slots[g.From] = nil
	}
	a.at++
}

// release gives all buffers back.
func (a *accumulation) release() {
	for i, b := range a.slots {
		a.v.give(b)
		a.slots[i] = nil
	}
}
