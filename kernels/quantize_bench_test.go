package kernels_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/farandole-ml/farandole/kernels"
)

// BenchmarkEncode prints float32 bytes a second that are encoded, or decoded, on one thread.
func BenchmarkEncode(b *testing.B) {
	for _, n := range []int{16 << 10, 16 << 20} {
		x, y := hardFloats(rand.New(rand.NewPCG(1, 1)), n, true), make([]float32, n)
		half, codes := make([]byte, 2*n), make([]byte, kernels.Int8Bytes(n))
		for name, f := range map[string]func(){
			"encode bf16": func() { kernels.EncodeBF16(half, x) },
			"decode bf16": func() { kernels.DecodeBF16(y, half) },
			"encode int8": func() { kernels.EncodeInt8(codes, x) },
			"decode int8": func() { kernels.DecodeInt8(y, codes) },
			"residual":    func() { kernels.Residual(y, x) },
		} {
			b.Run(fmt.Sprintf("%s/%s", name, sizeName(4*n)), func(b *testing.B) {
				for b.Loop() {
					f()
				}
				report(b, 4*n)
			})
		}
	}
}
