package kernels

import "math"

func sqrt32(x float32) float32 { return float32(math.Sqrt(float64(x))) }

// exp32 is eˣ to about one unit in the last place, with subnormal results.
func exp32(x float32) float32 {
	if x < expLow {
		x = expLow
	}
	if x > expHigh {
		x = expHigh
	}
	t := fma32(x, log2e, expMagic)
	n := t - expMagic
	r := fma32(n, -ln2Hi, x)
	r = fma32(n, -ln2Lo, r)
	p := expCoef[0]
	for _, c := range expCoef[1:] {
		p = fma32(p, r, c)
	}
	// Two factors, so that neither leaves the normal range.
	i := int32(math.Float32bits(t) - math.Float32bits(expMagic))
	h := i >> 1
	return float32(p*powerOfTwo(h)) * powerOfTwo(i-h)
}

func powerOfTwo(n int32) float32 { return math.Float32frombits(uint32(n+127) << 23) }

// log32 is the natural logarithm of a normal positive number, +Inf or NaN.
func log32(x float32) float32 {
	if x != x || math.IsInf(float64(x), 1) {
		return x
	}
	u := math.Float32bits(x)
	i := int32(u-bitsSqrtHalf) >> 23
	e := float32(i)
	f := math.Float32frombits(u-uint32(i)<<23) - 1
	p := logCoef[0]
	for _, c := range logCoef[1:] {
		p = fma32(p, f, c)
	}
	q := float32(f * f)
	y := float32(f * q)
	y = float32(y * p)
	y = fma32(e, ln2Lo, y)
	y = fma32(-0.5, q, y)
	y = f + y
	return fma32(e, ln2Hi, y)
}

// geluParts are the intermediate values that GELU and its derivative share; see the canonical arithmetic.
func geluParts(x float32) (y, q, a, d, s float32) {
	y = x
	if y > geluLimit {
		y = geluLimit
	}
	if y < -geluLimit {
		y = -geluLimit
	}
	q = float32(y * y)
	u2 := float32(y * fma32(q, geluCubic, geluLinear))
	a = exp32(-float32(math.Abs(float64(u2))))
	d = 1 / (1 + a)
	s = float32(a * d)
	if u2 >= 0 {
		s = d
	}
	return y, q, a, d, s
}

func gelu32(x float32) float32 {
	_, _, _, _, s := geluParts(x)
	return float32(x * s)
}

func geluSlope32(x float32) float32 {
	y, q, a, d, s := geluParts(x)
	w := fma32(q, geluCubic3, geluLinear)
	t := float32(float32(a*d) * d)
	t = float32(float32(y*w) * t)
	return s + t
}

// lanes is the accumulator of a lane sum.
type lanes [Lanes]float32

// add gives element i of a row the value x; see lanes.fold.
func (l *lanes) add(i int, x float32) { l[i%Lanes] += x }

// fma gives element i of a row the product a·b.
func (l *lanes) fma(i int, a, b float32) { l[i%Lanes] = fma32(a, b, l[i%Lanes]) }

// fold ends a lane sum of n elements.
func (l *lanes) fold(n int) float32 {
	if n%Lanes != 0 {
		for i := n % Lanes; i < Lanes; i++ {
			l[i] += 0 // the missing elements: turns -0 into +0
		}
	}
	for half := Lanes / 2; half > 0; half /= 2 {
		for i := range half {
			l[i] += l[i+half]
		}
	}
	return l[0]
}
