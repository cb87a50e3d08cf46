package kernels

import (
	"encoding/binary"
	"fmt"
)

// EncodeBF16 rounds src to bfloat16 (nearest even, NaN canonical) and writes two bytes for each value, in the machine's
// order. It runs on the caller's thread and does not allocate. len(dst) is 2·len(src).
func EncodeBF16(dst []byte, src []float32) {
	if len(dst) != 2*len(src) {
		panic(fmt.Sprintf("kernels: %d values as bfloat16 need %d bytes, not %d", len(src), 2*len(src), len(dst)))
	}
	best().encodeBF16(dst, src)
}

// DecodeBF16 widens the bfloat16 in src to float32, exactly. len(src) is 2·len(dst).
func DecodeBF16(dst []float32, src []byte) {
	if len(src) != 2*len(dst) {
		panic(fmt.Sprintf("kernels: %d bytes are no %d bfloat16", len(src), len(dst)))
	}
	best().decodeBF16(dst, src)
}

// EncodeF16 rounds src to float16 (nearest even, NaN canonical, too large becomes infinite) and writes two bytes for each
// value, in the machine's order. len(dst) is 2·len(src).
func EncodeF16(dst []byte, src []float32) {
	if len(dst) != 2*len(src) {
		panic(fmt.Sprintf("kernels: %d values as float16 need %d bytes, not %d", len(src), 2*len(src), len(dst)))
	}
	for i, x := range src {
		binary.NativeEndian.PutUint16(dst[2*i:], f16FromF32(x))
	}
}

// DecodeF16 widens the float16 in src to float32, exactly. len(src) is 2·len(dst).
func DecodeF16(dst []float32, src []byte) {
	if len(src) != 2*len(dst) {
		panic(fmt.Sprintf("kernels: %d bytes are no %d float16", len(src), len(dst)))
	}
	for i := range dst {
		dst[i] = f16ToF32(binary.NativeEndian.Uint16(src[2*i:]))
	}
}
