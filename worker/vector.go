package worker

import (
	"math"
	"sort"
	"sync"
	"sync/atomic"

	"github.com/farandole-ml/farandole/elastic"
	"github.com/farandole-ml/farandole/kernels"
)

type param struct {
	name        string
	value, grad []float32
}

// vector is what is reduced: all gradients, those of the last registered parameter first, as backward finishes them; then the
// loss, then the votes to stop. It owns the buffers of that length. The last reduced one is kept, and replaced by the next only
// once that is complete, so that a worker that is one step behind can have it.
type vector struct {
	grads   int // elements of all gradients
	pieces  []piece
	ends    []int    // by parameter: where the gradients of it and all later ones end
	buckets []bucket // what is reduced by one operation each
	threads int
	pull    func(first, end int) error // Mirror.PullGradients; may be nil
	round   bool                       // every node of the tree is rounded to bfloat16

	buffers
	reduced   []float32 // nil before the first
	step      elastic.Step
	committed elastic.Step
	infinite  bool // reduced has a NaN or Inf; known after deliver
}

// bucket is a part of the vector: whole gradients. The last one has the loss and the votes.
type bucket struct {
	lo, hi int
	exact  bool // not rounded, whatever the rest is
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

// lay plans the vector. A bucket has at least bucketLen elements; 0 means that there is only one.
func (v *vector) lay(params []param, bucketLen int) {
	v.ends = make([]int, len(params))
	lo := 0
	for t := len(params) - 1; t >= 0; t-- {
		n := len(params[t].grad)
		for off := 0; off < n; off += pieceLen {
			v.pieces = append(v.pieces, piece{t, v.grads + off, off, min(pieceLen, n-off)})
		}
		v.grads += n
		v.ends[t] = v.grads
		if bucketLen > 0 && v.grads-lo >= bucketLen && t > 0 {
			v.buckets = append(v.buckets, bucket{lo: lo, hi: v.grads})
			lo = v.grads
		}
	}
	if v.round {
		v.buckets = append(v.buckets, bucket{lo: lo, hi: v.grads})
		lo = v.grads
	}
	v.buckets = append(v.buckets, bucket{lo: lo, hi: v.len(), exact: true})
}

// tensors are the numbers [first, end) of the parameters whose gradients are elements [lo, hi): later ones come first.
func (v *vector) tensors(lo, hi int) (first, end int) {
	n := len(v.ends)
	first = sort.Search(n, func(t int) bool { return v.ends[t] <= hi })
	end = sort.Search(n, func(t int) bool { return v.ends[t] <= lo })
	return first, end
}

func (v *vector) len() int { return v.grads + tailLen }

func (v *vector) take() []float32 { return v.buffers.take(v.len()) }

func (v *vector) give(b []float32) {
	if len(b) == v.len() { // what is shorter is no vector
		v.buffers.give(b)
	}
}

// tail is the loss and the votes of a vector, or of one whose gradients are elsewhere, which has nothing but them.
func tail(b []float32) []float32 { return b[len(b)-tailLen:] }

const tailLen = 2

// away says that the reduced gradients are on the device.
func (v *vector) away() bool { return v.reduced != nil && len(v.reduced) < v.len() }

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
func (v *vector) loss(shards int) float64 { return float64(tail(v.reduced)[0]) / float64(shards) }

// vote says whether anyone asked to stop after the reduced step.
func (v *vector) vote() bool { return tail(v.reduced)[1] > 0 }

// each runs f over the pieces in [lo, hi), which whole gradients fill, on as many threads as pay.
func (v *vector) each(lo, hi int, f func(p piece)) {
	first := sort.Search(len(v.pieces), func(i int) bool { return v.pieces[i].at >= lo })
	end := sort.Search(len(v.pieces), func(i int) bool { return v.pieces[i].at >= hi })
	pieces := v.pieces[first:end]
	if v.threads < 2 || hi-lo < serialLen {
		for _, p := range pieces {
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
				if i >= len(pieces) {
					return
				}
				f(pieces[i])
			}
		})
	}
	wg.Wait()
}

// collect puts elements [lo, hi) of one shard's gradients into dst, added to what is there if plus is true, and zeroes
// the gradients. It gives the first tensor that is not finite, or finite.
func (v *vector) collect(dst []float32, params []param, lo, hi int, plus bool) int {
	var first atomic.Int32
	first.Store(finite)
	v.each(lo, hi, func(p piece) {
		g := params[p.tensor].grad[p.off : p.off+p.n]
		d := dst[p.at : p.at+p.n]
		switch {
		case v.round && plus:
			rounded.Run([][]byte{asBytes(d)}, [][]byte{asBytes(d), asBytes(g)})
		case v.round:
			rounded.Run([][]byte{asBytes(d)}, [][]byte{asBytes(g)})
		case plus:
			plusEqual(d, g)
		default:
			copy(d, g)
		}
		if !allFinite(g) {
			lower(&first, int32(p.tensor))
		}
		clear(g)
	})
	return int(first.Load())
}

// rounded is the sum whose every operand and result is rounded to bfloat16.
var rounded = kernels.Reduction{Type: kernels.Float32, Op: kernels.Sum, Round: true}

func lower(v *atomic.Int32, to int32) {
	for {
		old := v.Load()
		if old <= to || v.CompareAndSwap(old, to) {
			return
		}
	}
}

// plus does a += b in [lo, hi).
func (v *vector) plus(a, b []float32, lo, hi int) {
	v.each(lo, hi, func(p piece) {
		x, y := a[p.at:p.at+p.n], b[p.at:p.at+p.n]
		if v.round {
			rounded.Run([][]byte{asBytes(x)}, [][]byte{asBytes(x), asBytes(y)})
		} else {
			plusEqual(x, y)
		}
	})
}

// deliver copies the reduced vector into the gradients and says whether it has a NaN or Inf.
func (v *vector) deliver(params []param) bool {
	var bad atomic.Bool
	v.each(0, v.grads, func(p piece) {
		g := params[p.tensor].grad[p.off : p.off+p.n]
		copy(g, v.reduced[p.at:p.at+p.n])
		if !allFinite(g) {
			bad.Store(true)
		}
	})
	v.infinite = bad.Load() || !allFinite(tail(v.reduced))
	return v.infinite
}

// plusEqual does a[i] += b[i].
func plusEqual(a, b []float32) { kernels.AddF32(a, a, b) }

// allFinite says that b has no NaN and no Inf.
func allFinite(b []float32) bool { return kernels.FirstNonFinite(b) < 0 }
