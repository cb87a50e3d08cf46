package kernels

import "math"

// fma32 is a·b+c rounded once to float32.
//
// Go has no float32 fused multiply-add, and float32(math.FMA(…)) rounds twice. The float64 product of two float32 is
// exact, so only the sum rounds. Rounding that sum again is harmless unless it lies exactly halfway between two
// float32: then, and where float32 is subnormal, fma32Slow rounds to odd first (Boldo and Melquiond 2008).
func fma32(a, b, c float32) float32 {
	s := float64(a)*float64(b) + float64(c)
	u := math.Float64bits(s)
	if u&(1<<29-1) != 1<<28 && u<<1 >= minNormal32<<1 {
		return float32(s)
	}
	return fma32Slow(a, b, c)
}

// minNormal32 is the float64 bit pattern of the least normal float32.
const minNormal32 = (1023 - 126) << 52

func fma32Slow(a, b, c float32) float32 {
	p, x := float64(a)*float64(b), float64(c)
	s := p + x
	if s != s || math.IsInf(s, 0) {
		return float32(s)
	}
	// e is the rounding error of s, exactly (Knuth's TwoSum).
	q := s - x
	e := (p - q) + (x - (s - q))
	if u := math.Float64bits(s); e != 0 && u&1 == 0 {
		if (e > 0) == (s > 0) {
			u++
		} else {
			u--
		}
		s = math.Float64frombits(u)
	}
	return float32(s)
}
