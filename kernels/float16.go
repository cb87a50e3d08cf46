package kernels

import "math"

// The canonical NaNs.
const (
	nan64 = 0x7ff8000000000000
	nan32 = 0x7fc00000
	nan16 = 0x7e00 // float16
	nanBF = 0x7fc0 // bfloat16
)

// bf16FromF32 rounds to nearest even. A NaN becomes the canonical one.
func bf16FromF32(x float32) uint16 {
	if x != x {
		return nanBF
	}
	u := math.Float32bits(x)
	return uint16((u + 0x7fff + u>>16&1) >> 16)
}

func bf16ToF32(h uint16) float32 { return math.Float32frombits(uint32(h) << 16) }

// f16FromF32 rounds to nearest even; what is too large becomes infinite. A NaN becomes the canonical one.
func f16FromF32(x float32) uint16 {
	if x != x {
		return nan16
	}
	const (
		infinite = 0x47800000 // 2^16
		normal   = 0x38800000 // 2^-14, the least normal float16
		// Adding half to a smaller number leaves its value in units of 2^-24 in the low bits, rounded to nearest even.
		half = 0x3f000000
	)
	u := math.Float32bits(x)
	sign := uint16(u >> 16 & 0x8000)
	u &= 0x7fffffff
	switch {
	case u >= infinite:
		return sign | 0x7c00
	case u < normal:
		return sign | uint16(math.Float32bits(math.Float32frombits(u)+math.Float32frombits(half))-half)
	}
	// The exponent's bias changes from 127 to 15; a carry out of the significand raises it, to infinity at the end.
	return sign | uint16((u-(112<<23)+0xfff+u>>13&1)>>13)
}

func f16ToF32(h uint16) float32 {
	sign, exponent, fraction := uint32(h&0x8000)<<16, uint32(h>>10&31), uint32(h&0x3ff)
	switch exponent {
	case 0: // fraction·2^-24 is exact
		return math.Float32frombits(math.Float32bits(float32(fraction)*0x1p-24) | sign)
	case 31:
		return math.Float32frombits(sign | 0x7f800000 | fraction<<13)
	}
	return math.Float32frombits(sign | (exponent+112)<<23 | fraction<<13)
}
