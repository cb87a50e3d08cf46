package worker

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/farandole-ml/farandole/elastic"
)

func TestAllFinite(t *testing.T) {
	for n := range 40 {
		b := make([]float32, n)
		for i := range b {
			b[i] = math.MaxFloat32 * float32(1-2*(i%2))
		}
		require.True(t, allFinite(b), n)
		for i := range b {
			for _, x := range []float32{float32(math.NaN()), float32(math.Inf(1)), float32(math.Inf(-1)), -float32(math.NaN())} {
				old := b[i]
				b[i] = x
				require.Falsef(t, allFinite(b), "%v at %d of %d", x, i, n)
				b[i] = old
			}
		}
	}
}

// naive is the reduction tree's definition.
func naive(leaf func(i int) []float32, n elastic.Range) []float32 {
	left, right, ok := elastic.Children(n)
	if !ok {
		return leaf(n.First)
	}
	a, b := naive(leaf, left), naive(leaf, right)
	out := make([]float32, len(a))
	for i := range a {
		out[i] = a[i] + b[i]
	}
	return out
}

// TestAccumulate compares the fused merging with the tree's definition, for every range and on one thread and several.
func TestAccumulate(t *testing.T) {
	const shards = 7
	for _, threads := range []int{1, 3} {
		sizes := []int{5, 2*pieceLen + 3, serialLen}
		var params []param
		for _, n := range sizes {
			params = append(params, param{"p", make([]float32, n), make([]float32, n)})
		}
		v := vector{threads: threads}
		v.lay(params, 0)
		shard := func(i int) []float32 {
			r := rand.New(rand.NewPCG(uint64(i), 0))
			out := make([]float32, v.len())
			for k := range v.grads + 1 {
				out[k] = r.Float32() - 0.5
			}
			return out
		}
		for _, r := range []elastic.Range{{First: 0, End: 7}, {First: 1, End: 6}, {First: 3, End: 4}} {
			a := v.accumulate(r, shards, true)
			for i := r.First; i < r.End; i++ {
				want, at := shard(i), 0
				for k := len(params) - 1; k >= 0; k-- {
					at += copy(params[k].grad, want[at:])
				}
				require.Equal(t, i, a.next())
				a.add(params, float64(want[v.grads]))
				for _, p := range params {
					require.Zero(t, p.grad[len(p.grad)-1])
				}
			}
			require.True(t, a.complete())
			for i, n := range elastic.Partials(r, shards) {
				require.Equal(t, naive(shard, n), a.slots[i], n.String())
			}
			a.release()
		}
	}
}

func TestOriginIsFirst(t *testing.T) {
	params := []param{{"a", make([]float32, 9), make([]float32, 9)}, {"b", make([]float32, 3), make([]float32, 3)}}
	v := vector{threads: 1}
	v.lay(params, 0)
	a := v.accumulate(elastic.Range{First: 2, End: 6}, 8, true)
	for i := 2; i < 6; i++ {
		if i == 4 {
			params[1].grad[2] = float32(math.Inf(1))
		}
		if i == 5 {
			params[0].grad[0] = float32(math.NaN())
		}
		a.add(params, 0)
	}
	require.Equal(t, 4, a.badShard)
	require.Equal(t, 1, a.badTensor)
	a = v.accumulate(elastic.Range{First: 0, End: 1}, 8, true)
	a.add(params, math.NaN())
	require.Equal(t, len(params), a.badTensor, "the loss")
}

func BenchmarkCollect(b *testing.B) {
	const n = 8 << 20
	params := []param{{"p", nil, make([]float32, n)}}
	for name, plus := range map[string]bool{"first": false, "add": true} {
		b.Run(name, func(b *testing.B) {
			v := vector{threads: 1}
			v.lay(params, 0)
			dst := make([]float32, v.len())
			b.SetBytes(4 * n)
			for b.Loop() {
				v.collect(dst, params, 0, v.grads, plus)
			}
		})
	}
	b.Run("deliver", func(b *testing.B) {
		v := vector{threads: 1}
		v.lay(params, 0)
		v.reduced = make([]float32, v.len())
		b.SetBytes(4 * n)
		for b.Loop() {
			v.deliver(params)
		}
	})
	b.Run("memmove", func(b *testing.B) {
		dst := make([]float32, n)
		b.SetBytes(4 * n)
		for b.Loop() {
			copy(dst, params[0].grad)
		}
	})
}
