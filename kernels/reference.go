package kernels

import (
	"math"
	"sync/atomic"
)

// reference is the canonical arithmetic as plain Go: the definition and the oracle, not fast.
// Products that feed a sum are converted to float32 explicitly, because Go may otherwise fuse them.
type reference struct{ class string } // empty means class f32

func (reference) add(dst, a, b []float32) {
	for i := range dst {
		dst[i] = a[i] + b[i]
	}
}

func (reference) scale(x []float32, s float32) {
	for i := range x {
		x[i] *= s
	}
}

func (reference) gelu(out, x []float32) {
	for i := range out {
		out[i] = gelu32(x[i])
	}
}

func (reference) geluBackward(dx, out, dout, x []float32) {
	for i := range dx {
		v := x[i]
		dx[i] = dout[i] * geluSlope32(v)
		if out != nil {
			out[i] = gelu32(v)
		}
	}
}

func (reference) relu(out, x []float32) {
	for i, v := range x {
		if v <= 0 {
			v = 0
		}
		out[i] = v
	}
}

func (reference) reluBackward(dx, dout, x []float32) {
	for i, v := range x {
		if v > 0 {
			dx[i] = dout[i]
		} else {
			dx[i] = 0
		}
	}
}

func (reference) adamW(p, g, m, v []float32, f *AdamWFactors) {
	for i := range p {
		h := float32(g[i] * f.Scale)
		m[i] = fma32(f.Beta1, m[i], float32(f.Rest1*h))
		v[i] = fma32(f.Beta2, v[i], float32(float32(f.Rest2*h)*h))
		u := float32(m[i]*f.C1) / (sqrt32(float32(v[i]*f.C2)) + f.Eps)
		u = fma32(f.Decay, p[i], u)
		p[i] = fma32(-f.LR, u, p[i])
	}
}

// chain is the value of one block of a matrix product: n terms, factors at strides as and bs.
func chain(a []float32, as int, b []float32, bs, n int) float32 {
	s := float32(0)
	for k := range n {
		s = fma32(a[k*as], b[k*bs], s)
	}
	return s
}

// product is Σ_{k0≤k<k1} a[k·as]·b[k·bs], blocks starting at k=0.
func product(a []float32, as int, b []float32, bs, k0, k1 int) float32 {
	var c float32
	for first := true; k0 < k1; first = false {
		end := min(k1, (k0/BlockK+1)*BlockK)
		s := chain(a[k0*as:], as, b[k0*bs:], bs, end-k0)
		if first {
			c = s
		} else {
			c += s
		}
		k0 = end
	}
	return c
}

func (r reference) matmul(t *matmulTask, i0, i1, j0, j1 int) {
	chain := chain
	switch r.class {
	case ClassBF16:
		chain = chainBF16
	case ClassBF16AMX:
		t.matmulAMX(i0, i1, j0, j1)
		return
	}
	for i := i0; i < i1; i++ {
		for j := j0; j < j1; j++ {
			a, b, c := t.a[i*t.ai:], t.b[j*t.bj:], &t.c[i*t.n+j]
			for k := 0; k < t.k; k += BlockK {
				s := chain(a[k*t.ak:], t.ak, b[k*t.bk:], t.bk, min(BlockK, t.k-k))
				if k == 0 && !t.accumulate {
					*c = s
				} else {
					*c += s
				}
			}
			if t.bias != nil {
				*c += t.bias[j]
			}
		}
	}
}

func (reference) columnSums(t *columnSumsTask, j0, j1 int) {
	for j := j0; j < j1; j++ {
		for i := 0; i < t.rows; i += BlockK {
			s := float32(0)
			for r := i; r < min(i+BlockK, t.rows); r++ {
				s += t.x[r*t.n+j]
			}
			t.dst[j] += s
		}
	}
}

func (reference) embed(t *embedTask, i0, i1 int) {
	for i := i0; i < i1; i++ {
		out, w := t.x[i*t.c:][:t.c], t.wte[int(t.tokens[i])*t.c:][:t.c]
		if t.wpe == nil {
			copy(out, w)
			continue
		}
		p := t.wpe[i%t.t*t.c:][:t.c]
		for j := range out {
			out[j] = w[j] + p[j]
		}
	}
}

func (reference) embedBackward(t *embedTask, j0, j1 int) {
	for i, token := range t.tokens {
		dout := t.x[i*t.c:]
		for j := j0; j < j1; j++ {
			t.wte[int(token)*t.c+j] += dout[j]
			if t.wpe != nil {
				t.wpe[i%t.t*t.c+j] += dout[j]
			}
		}
	}
}

func (reference) blockSums(dst, x []float32, square bool, b0, b1 int) {
	for b := b0; b < b1; b++ {
		block := x[b*BlockSum : min((b+1)*BlockSum, len(x))]
		var l lanes
		for i, v := range block {
			if square {
				l.fma(i, v, v)
			} else {
				l.add(i, v)
			}
		}
		dst[b] = l.fold(len(block))
	}
}

func (reference) copyPast(dst, src []byte) { copy(dst, src) }

func (reference) firstNonFinite(x []float32) int {
	for i, v := range x {
		if v-v != 0 {
			return i
		}
	}
	return -1
}

func (reference) fmaLoop(flops int64) int64 {
	x := float32(0.5)
	for range flops / 2 {
		x = fma32(x, 0.25, 0.5)
	}
	sink.Store(math.Float32bits(x))
	return flops / 2 * 2
}

// sink keeps the compiler from dropping what only a benchmark computes.
var sink atomic.Uint32
