package kernelstest

import (
	"fmt"
	"math"
	"math/rand/v2"

	"github.com/farandole-ml/farandole/kernels"
)

// product is the shape of a matrix product with one long side, past several blocks of every kind; at times all rows of that
// length begin at few places of a cache.
func product(r *rand.Rand, size int) (m, n, k int) {
	d := [3]int{dim(r, size), dim(r, size), dim(r, size)}
	long := dim(r, size*10)
	if r.IntN(4) == 0 {
		long = 512 * (1 + r.IntN(2))
	}
	d[r.IntN(3)] = long
	return d[0], d[1], d[2]
}

func linear(r *rand.Rand, size int) Problem {
	m, n, k := product(r, size)
	return linearOf(r, m, n, k)
}

func linearOf(r *rand.Rand, m, n, k int) Problem {
	p := Problem{
		Name:   fmt.Sprintf("Linear m=%d n=%d k=%d", m, n, k),
		Rounds: kernels.RoundsFactors,
		Buffers: []Argument{out("out", m*n, summed(k)), in("x", normal(r, m*k, 1)), in("w", normal(r, n*k, 1)),
			in("bias", normal(r, n, 1))},
		Call: func(d kernels.Device, b []kernels.Buffer, _ kernels.Ints) { d.Linear(b[0], b[1], b[2], b[3], m, n, k) },
		Want: func(in [][]float64) [][]float64 { return [][]float64{Linear64(in[1], in[2], in[3], m, n, k)} },
	}
	if r.IntN(3) == 0 {
		p.Name += " no bias"
		p.Call = func(d kernels.Device, b []kernels.Buffer, _ kernels.Ints) { d.Linear(b[0], b[1], b[2], nil, m, n, k) }
		p.Want = func(in [][]float64) [][]float64 { return [][]float64{Linear64(in[1], in[2], nil, m, n, k)} }
	}
	return p
}

func linearBackward(r *rand.Rand, size int) Problem {
	m, n, k := product(r, size)
	return linearBackwardOf(r, m, n, k)
}

func linearBackwardOf(r *rand.Rand, m, n, k int) Problem {
	p := Problem{
		Name:   fmt.Sprintf("LinearBackward m=%d n=%d k=%d", m, n, k),
		Rounds: kernels.RoundsFactors,
		Buffers: []Argument{out("dx", m*k, summed(n)), inout("dw", normal(r, n*k, 1), summed(m)),
			inout("dbias", normal(r, n, 1), summed(m)),
			in("dout", normal(r, m*n, 1)), in("x", normal(r, m*k, 1)), in("w", normal(r, n*k, 1))},
		Call: func(d kernels.Device, b []kernels.Buffer, _ kernels.Ints) {
			d.LinearBackward(b[0], b[1], b[2], b[3], b[4], b[5], m, n, k)
		},
		Want: func(in [][]float64) [][]float64 {
			dx, dw, dbias := LinearBackward64(in[3], in[4], in[5], m, n, k)
			return [][]float64{dx, plus(in[1], dw), plus(in[2], dbias)}
		},
	}
	if r.IntN(4) == 0 {
		p.Name += " only dx"
		p.Buffers[1].Written, p.Buffers[2].Written = false, false
		p.Call = func(d kernels.Device, b []kernels.Buffer, _ kernels.Ints) {
			d.LinearBackwardInput(b[0], b[3], b[5], m, n, k)
		}
		p.Want = func(in [][]float64) [][]float64 {
			dx, _, _ := LinearBackward64(in[3], in[4], in[5], m, n, k)
			return [][]float64{dx}
		}
		return p
	}
	if r.IntN(3) == 0 { // the first layer: its input needs no gradient
		p.Name += " only dw"
		p.Buffers[0].Written, p.Buffers[2].Written = false, false
		p.Call = func(d kernels.Device, b []kernels.Buffer, _ kernels.Ints) {
			d.LinearBackward(nil, b[1], nil, b[3], b[4], b[5], m, n, k)
		}
		p.Want = func(in [][]float64) [][]float64 {
			_, dw, _ := LinearBackward64(in[3], in[4], in[5], m, n, k)
			return [][]float64{plus(in[1], dw)}
		}
	}
	return p
}

func embed(r *rand.Rand, size int) Problem {
	b, t, c, vocab := 1+r.IntN(3), dim(r, size), dim(r, size), dim(r, size)
	p := Problem{
		Name: fmt.Sprintf("Embed b=%d t=%d c=%d", b, t, c),
		IDs:  below(r, b*t, vocab),
		Buffers: []Argument{out("out", b*t*c, exact), in("wte", normal(r, vocab*c, 1)),
			in("wpe", normal(r, (t+r.IntN(3))*c, 1))},
		Call: func(d kernels.Device, x []kernels.Buffer, ids kernels.Ints) { d.Embed(x[0], x[1], x[2], ids, b, t, c) },
	}
	p.Want = func(in [][]float64) [][]float64 { return [][]float64{Embed64(in[1], in[2], p.IDs, t, c)} }
	if r.IntN(3) == 0 {
		p.Name += " no wpe"
		p.Call = func(d kernels.Device, x []kernels.Buffer, ids kernels.Ints) { d.Embed(x[0], x[1], nil, ids, b, t, c) }
		p.Want = func(in [][]float64) [][]float64 { return [][]float64{Embed64(in[1], nil, p.IDs, t, c)} }
	}
	return p
}

func embedBackward(r *rand.Rand, size int) Problem {
	b, t, c, vocab := 1+r.IntN(3), dim(r, size), dim(r, size), dim(r, size)
	p := Problem{
		Name: fmt.Sprintf("EmbedBackward b=%d t=%d c=%d", b, t, c),
		IDs:  below(r, b*t, vocab),
		Buffers: []Argument{inout("dwte", normal(r, vocab*c, 1), summed(b*t)),
			inout("dwpe", normal(r, (t+r.IntN(3))*c, 1), summed(b)), in("dout", normal(r, b*t*c, 1))},
		Call: func(d kernels.Device, x []kernels.Buffer, ids kernels.Ints) {
			d.EmbedBackward(x[0], x[1], x[2], ids, b, t, c)
		},
	}
	p.Want = func(in [][]float64) [][]float64 {
		dwte, dwpe := EmbedBackward64(in[2], p.IDs, t, c, len(in[0]), len(in[1]))
		return [][]float64{plus(in[0], dwte), plus(in[1], dwpe)}
	}
	if r.IntN(3) == 0 {
		p.Name += " no dwpe"
		p.Buffers[1].Written = false
		p.Call = func(d kernels.Device, x []kernels.Buffer, ids kernels.Ints) {
			d.EmbedBackward(x[0], nil, x[2], ids, b, t, c)
		}
		p.Want = func(in [][]float64) [][]float64 {
			dwte, _ := EmbedBackward64(in[2], p.IDs, t, c, len(in[0]), 0)
			return [][]float64{plus(in[0], dwte)}
		}
	}
	return p
}

func layerNorm(r *rand.Rand, size int) Problem {
	rows, c := dim(r, size), dim(r, size*2)
	return Problem{
		Name: fmt.Sprintf("LayerNorm rows=%d c=%d", rows, c),
		// A narrow row may have next to no variance: rstd is then up to 300 and multiplies the error.
		Buffers: []Argument{out("out", rows*c, 1e-4), out("mean", rows, summed(1)), out("rstd", rows, 1e-4),
			in("x", normal(r, rows*c, 1)), in("gamma", normal(r, c, 1)), in("beta", normal(r, c, 1))},
		Call: func(d kernels.Device, b []kernels.Buffer, _ kernels.Ints) {
			d.LayerNorm(b[0], b[1], b[2], b[3], b[4], b[5], rows, c)
		},
		Want: func(in [][]float64) [][]float64 {
			out, mean, rstd := LayerNorm64(in[3], in[4], in[5], rows, c)
			return [][]float64{out, mean, rstd}
		},
	}
}

func residualLayerNorm(r *rand.Rand, size int) Problem {
	rows, c := dim(r, size), dim(r, size*2)
	return Problem{
		Name: fmt.Sprintf("ResidualLayerNorm rows=%d c=%d", rows, c),
		Buffers: []Argument{out("sum", rows*c, exact), out("out", rows*c, 1e-4), out("mean", rows, summed(1)), out("rstd", rows, 1e-4),
			in("a", normal(r, rows*c, 1)), in("b", normal(r, rows*c, 1)), in("gamma", normal(r, c, 1)), in("beta", normal(r, c, 1))},
		Call: func(d kernels.Device, b []kernels.Buffer, _ kernels.Ints) {
			d.ResidualLayerNorm(b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7], rows, c)
		},
		Want: func(in [][]float64) [][]float64 {
			sum := plus(in[4], in[5])
			out, mean, rstd := LayerNorm64(widen(narrow(sum)), in[6], in[7], rows, c)
			return [][]float64{sum, out, mean, rstd}
		},
	}
}

func layerNormBackward(r *rand.Rand, size int) Problem {
	rows, c := dim(r, size*8), dim(r, size*2)
	x := normal(r, rows*c, 1)
	_, mean, rstd := LayerNorm64(widen(x), make([]float64, c), make([]float64, c), rows, c)
	return Problem{
		Name: fmt.Sprintf("LayerNormBackward rows=%d c=%d", rows, c),
		Buffers: []Argument{inout("dx", normal(r, rows*c, 1), 1e-3), inout("dgamma", normal(r, c, 1), 3*summed(rows)),
			inout("dbeta", normal(r, c, 1), summed(rows)), in("dout", normal(r, rows*c, 1)), in("x", x),
			in("gamma", normal(r, c, 1)), in("mean", narrow(mean)), in("rstd", narrow(rstd))},
		Call: func(d kernels.Device, b []kernels.Buffer, _ kernels.Ints) {
			d.LayerNormBackward(b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7], rows, c)
		},
		Want: func(in [][]float64) [][]float64 {
			dx, dgamma, dbeta := LayerNormBackward64(in[3], in[4], in[5], in[6], in[7], rows, c)
			return [][]float64{plus(in[0], dx), plus(in[1], dgamma), plus(in[2], dbeta)}
		},
	}
}

func narrow(x []float64) []float32 {
	y := make([]float32, len(x))
	for i, v := range x {
		y[i] = float32(v)
	}
	return y
}

// large are problems past every block: three canonical blocks of each summed dimension, more rows and columns than any
// implementation packs at once.
func large(r *rand.Rand) []Problem {
	return []Problem{
		linearOf(r, 3, 5, 2*kernels.BlockK+101), linearOf(r, 1100, 3, 17), linearOf(r, 2, 1000, 31), linearOf(r, 15, 33, 3*kernels.BlockK),
		linearBackwardOf(r, 2*kernels.BlockK+101, 3, 5), linearBackwardOf(r, 3, 2*kernels.BlockK+101, 5),
		linearBackwardOf(r, 7, 1100, 3), linearBackwardOf(r, 7, 3, 1100), linearBackwardOf(r, 15, 16400, 40),
		convOf(r, window(3, 19, 17, 5, 3, 3, 1, 1), 7), convOf(r, window(2, 9, 9, 40, 3, 5, 2, 2), 33),
		convBackwardOf(r, window(3, 19, 17, 5, 3, 3, 1, 1), 7), convBackwardOf(r, window(2, 9, 9, 40, 3, 5, 2, 2), 33),
		maxPoolOf(r, window(3, 31, 30, 19, 3, 2, 2, 1)), maxPoolBackwardOf(r, window(3, 31, 30, 19, 3, 2, 2, 1)),
		attentionOf(r, 1, 2*kernels.BlockK+13, 1, 5), attentionOf(r, 1, 11, 2, 2*kernels.BlockK+13),
		attentionBackwardOf(r, 1, 2*kernels.BlockK+13, 1, 5), attentionBackwardOf(r, 1, 11, 2, 2*kernels.BlockK+13),
	}
}

// attentionShape keeps b·heads·t²·hs in bounds; t passes BlockK now and then.
func attentionShape(r *rand.Rand, size int) (b, t, heads, hs int) {
	b, heads, t = 1+r.IntN(3), 1+r.IntN(3), dim(r, size)
	if r.IntN(8) == 0 {
		b, heads, t = 1, 1, min(kernels.BlockK-3+r.IntN(30), 4*size)
	}
	return b, t, heads, dim(r, max(1, min(size/2, size*size*size/(b*heads*t*t))))
}

// halfUnit is what rounding to bfloat16 changes of a value at most. Attention rounds the terms of its sums, whose magnitudes
// add up to a few units: probabilities times values; in gradients, some more.
const halfUnit = 0x1p-8

func attention(r *rand.Rand, size int) Problem {
	b, t, heads, hs := attentionShape(r, size)
	return attentionOf(r, b, t, heads, hs)
}

func attentionOf(r *rand.Rand, b, t, heads, hs int) Problem {
	c := heads * hs
	y := out("out", b*t*c, 1e-5)
	y.Rounded = 4 * halfUnit
	return Problem{
		Name:    fmt.Sprintf("Attention b=%d t=%d heads=%d hs=%d", b, t, heads, hs),
		Buffers: []Argument{y, in("qkv", normal(r, b*t*3*c, 1))},
		Rounds:  func(class string) bool { return kernels.RoundsAttention(class, hs) },
		Call: func(d kernels.Device, x []kernels.Buffer, _ kernels.Ints) {
			d.Attention(x[0], x[1], b, t, heads, hs)
		},
		Want: func(in [][]float64) [][]float64 {
			out, _ := Attention64(in[1], b, t, heads, hs)
			return [][]float64{out}
		},
	}
}

func attentionBackward(r *rand.Rand, size int) Problem {
	b, t, heads, hs := attentionShape(r, size)
	return attentionBackwardOf(r, b, t, heads, hs)
}

func attentionBackwardOf(r *rand.Rand, b, t, heads, hs int) Problem {
	c := heads * hs
	qkv := normal(r, b*t*3*c, 1)
	y := out("dqkv", b*t*3*c, summed(t)*math.Sqrt(float64(hs))*4)
	y.Rounded = 8 * halfUnit
	return Problem{
		Name:    fmt.Sprintf("AttentionBackward b=%d t=%d heads=%d hs=%d", b, t, heads, hs),
		Buffers: []Argument{y, in("dout", normal(r, b*t*c, 1)), in("qkv", qkv)},
		Rounds:  func(class string) bool { return kernels.RoundsAttention(class, hs) },
		Call: func(d kernels.Device, x []kernels.Buffer, _ kernels.Ints) {
			d.AttentionBackward(x[0], x[1], x[2], b, t, heads, hs)
		},
		Want: func(in [][]float64) [][]float64 {
			_, att := Attention64(in[2], b, t, heads, hs)
			return [][]float64{AttentionBackward64(in[1], in[2], att, b, t, heads, hs)}
		},
	}
}

func crossEntropy(r *rand.Rand, size int) Problem {
	rows, v := dim(r, size), dim(r, size*4)
	scale := float32(1) / float32(rows)
	if r.IntN(4) == 0 {
		scale = 0
	}
	p := Problem{
		Name:    fmt.Sprintf("CrossEntropy rows=%d v=%d scale=%v", rows, v, scale),
		IDs:     below(r, rows, v),
		Buffers: []Argument{out("losses", rows, 4*exact), inout("logits", normal(r, rows*v, 3), 8*exact)},
		Call: func(d kernels.Device, b []kernels.Buffer, ids kernels.Ints) {
			d.CrossEntropy(b[0], b[1], ids, rows, v, scale)
		},
	}
	for i := range p.IDs {
		if r.IntN(4) == 0 {
			p.IDs[i] = -1 - r.Int32N(100)
		}
	}
	p.Want = func(in [][]float64) [][]float64 {
		losses, dlogits := CrossEntropy64(in[1], p.IDs, v, float64(scale))
		if scale == 0 {
			dlogits = in[1]
		}
		return [][]float64{losses, dlogits}
	}
	return p
}
