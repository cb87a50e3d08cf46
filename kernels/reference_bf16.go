package kernels

import "math"

// chainBF16 is chain in class bf16: pairs of terms, the odd one first.
func chainBF16(a []float32, as int, b []float32, bs, n int) float32 {
	s := float32(0)
	for k := 0; k < n; k += 2 {
		var x, y float32
		if k+1 < n {
			x, y = factorBF16(a[(k+1)*as]), factorBF16(b[(k+1)*bs])
		}
		s = fmaFlushed(x, y, s)
		s = fmaFlushed(factorBF16(a[k*as]), factorBF16(b[k*bs]), s)
	}
	return s
}

// matmulAMX is matmul in class bf16-amx: one chain of groups, which begins with what is there or the bias.
func (t *matmulTask) matmulAMX(i0, i1, j0, j1 int) {
	for i := i0; i < i1; i++ {
		for j := j0; j < j1; j++ {
			s := float32(0)
			switch {
			case t.accumulate:
				s = t.c[i*t.n+j]
			case t.bias != nil:
				s = t.bias[j]
			}
			for k := 0; k < t.k; k += groupAMX {
				s = sumFlushed(s, groupSum(t.a[i*t.ai+k*t.ak:], t.ak, t.b[j*t.bj+k*t.bk:], t.bk, min(groupAMX, t.k-k)))
			}
			t.c[i*t.n+j] = s
		}
	}
}

// groupAMX is the terms of a group in class bf16-amx.
const groupAMX = 32

// groupSum is the value of a group of n terms.
func groupSum(a []float32, as int, b []float32, bs, n int) float32 {
	var sums [2]float32 // of even and of odd terms
	for k := range groupAMX {
		var x, y float32
		if k < n {
			x, y = factorBF16(a[k*as]), factorBF16(b[k*bs])
		}
		sums[k%2] = fmaFlushed(x, y, sums[k%2])
	}
	return sumFlushed(sums[0], sums[1])
}

// sumFlushed is a+b as fmaFlushed has it, where a subnormal number counts as a zero of its sign.
func sumFlushed(a, b float32) float32 { return fmaFlushed(1, normal(a), normal(b)) }

func normal(x float32) float32 {
	if u := math.Float32bits(x); u&0x7f800000 == 0 {
		return math.Float32frombits(u & (1 << 31))
	}
	return x
}

// minNormal is the least normal float32.
const minNormal = 0x1p-126

// factorBF16 rounds a factor to bfloat16. A subnormal number becomes a zero of its sign.
func factorBF16(x float32) float32 {
	return bf16ToF32(bf16FromF32(normal(x)))
}

// fmaFlushed is a·b+c rounded to 24 bits whatever its exponent; what is less than minNormal then becomes a zero of its sign.
// No argument is subnormal.
//
// fma32 rounds small numbers to fewer bits. That matters where it reaches minNormal from below: there the exact sum is
// compared with what lies halfway between minNormal and the number of 24 bits before it.
func fmaFlushed(a, b, c float32) float32 {
	r := fma32(a, b, c)
	size := math.Abs(float64(r))
	flush := size < minNormal
	if size == minNormal {
		const halfway = minNormal - 0x1p-151
		// p is exact, and e is the rounding error of s, exactly (Knuth's TwoSum).
		p, x := float64(a)*float64(b), float64(c)
		s := p + x
		q := s - x
		e := float64(p-q) + float64(x-float64(s-q))
		flush = math.Abs(s) < halfway || math.Abs(s) == halfway && e != 0 && (e < 0) == (s > 0)
	}
	if flush {
		return math.Float32frombits(math.Float32bits(r) & (1 << 31))
	}
	return r
}
