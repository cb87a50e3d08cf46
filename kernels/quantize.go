package kernels

import (
	"fmt"
	"math"
)

// Block-scaled int8
//
// Values are cut into blocks of QuantBlock. A block is a float32 scale in the machine's order and one signed byte for each
// value. m is the largest |x| of the block's finite values and scale = m ÷ 126, both float32. A finite x has the code x ÷ scale
// rounded to nearest even and limited to ±126; all codes are 0 where scale is 0. The other codes are what no scale can say:
// 127 is +Inf, -127 is -Inf and -128 is NaN. A code k of a finite value means k·scale, limited to the largest float32.
const (
	// QuantBlock is the number of values that share a scale.
	QuantBlock = 256

	quantMost     = 126
	quantInfinite = 127
	quantNaN      = -128

	scaleBytes = 4
	// quantMagic has its last bit worth 1: adding it rounds to a whole number, in its low bits.
	quantMagic = float32(0x1.8p23)
)

// Int8Bytes is the length of n values as block-scaled int8.
func Int8Bytes(n int) int { return n + (n+QuantBlock-1)/QuantBlock*scaleBytes }

// EncodeInt8 writes src as block-scaled int8 to dst, which has Int8Bytes(len(src)) bytes and begins at a multiple of 4.
// A value comes back within half of its block's scale, which is 1/126 of the block's largest; NaN and infinities come back as such.
// It runs on the caller's thread and does not allocate.
func EncodeInt8(dst []byte, src []float32) {
	if len(dst) != Int8Bytes(len(src)) {
		panic(fmt.Sprintf("kernels: %d values as int8 need %d bytes, not %d", len(src), Int8Bytes(len(src)), len(dst)))
	}
	best().encodeInt8(dst, src)
}

// DecodeInt8 is the inverse: src has Int8Bytes(len(dst)) bytes. Every content of src has a meaning.
func DecodeInt8(dst []float32, src []byte) {
	if len(src) != Int8Bytes(len(dst)) {
		panic(fmt.Sprintf("kernels: %d bytes are no %d values as int8", len(src), len(dst)))
	}
	best().decodeInt8(dst, src)
}

// Residual makes x what of it was not sent: x - sent, and +0 where either is not finite.
// It runs on the caller's thread and does not allocate.
func Residual(x, sent []float32) {
	if len(x) != len(sent) {
		panic(fmt.Sprintf("kernels: residual of %d and %d values", len(x), len(sent)))
	}
	best().residual(x, sent)
}

// quantScale is the scale of a block.
func quantScale(block []float32) float32 {
	most := float32(0)
	for _, x := range block {
		if x = float32(math.Abs(float64(x))); x <= math.MaxFloat32 {
			most = max(most, x)
		}
	}
	return most / quantMost
}

func quantize(x, scale float32) int8 {
	switch {
	case x != x:
		return quantNaN
	case x > math.MaxFloat32:
		return quantInfinite
	case x < -math.MaxFloat32:
		return -quantInfinite
	case scale == 0:
		return 0
	}
	t := x/scale + quantMagic
	k := int32(math.Float32bits(t) - math.Float32bits(quantMagic))
	return int8(max(-quantMost, min(quantMost, k)))
}

func dequantize(k int8, scale float32) float32 {
	switch k {
	case quantNaN:
		return math.Float32frombits(nan32)
	case quantInfinite:
		return float32(math.Inf(1))
	case -quantInfinite:
		return float32(math.Inf(-1))
	}
	x := float32(k) * scale
	if x > math.MaxFloat32 {
		x = math.MaxFloat32
	}
	if x < -math.MaxFloat32 {
		x = -math.MaxFloat32
	}
	if x != x {
		return math.Float32frombits(nan32)
	}
	return x
}

func (reference) encodeInt8(dst []byte, src []float32) {
	for len(src) > 0 {
		n := min(QuantBlock, len(src))
		scale := quantScale(src[:n])
		elementsOf[float32](dst[:scaleBytes])[0] = scale
		for i, x := range src[:n] {
			dst[scaleBytes+i] = byte(quantize(x, scale))
		}
		dst, src = dst[scaleBytes+n:], src[n:]
	}
}

func (reference) decodeInt8(dst []float32, src []byte) {
	for len(dst) > 0 {
		n := min(QuantBlock, len(dst))
		scale := elementsOf[float32](src[:scaleBytes])[0]
		for i := range n {
			dst[i] = dequantize(int8(src[scaleBytes+i]), scale)
		}
		dst, src = dst[n:], src[scaleBytes+n:]
	}
}

func (reference) residual(x, sent []float32) {
	for i, s := range sent {
		d := x[i] - s
		if x[i]-x[i] != 0 || s-s != 0 {
			d = 0
		}
		x[i] = d
	}
}
