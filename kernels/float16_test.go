package kernels

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

// nearest16 is the 16-bit float nearest to x, from the definition: all of them are tried.
func nearest16(widen func(uint16) float32, infinity uint16, x float64) uint16 {
	best, distance := uint16(0), math.Inf(1)
	sign := uint16(0)
	if math.Signbit(x) {
		sign = 0x8000
	}
	// Beyond the largest number counts as the next one that the format would have, at the same spacing.
	largest, below := float64(widen(infinity-1)), float64(widen(infinity-2))
	for h := range uint32(infinity) + 1 {
		v := float64(widen(uint16(h)))
		if uint16(h) == infinity {
			v = largest + (largest - below)
		}
		d := math.Abs(math.Abs(x) - v)
		if d < distance || d == distance && h%2 == 0 {
			best, distance = uint16(h), d
		}
		if v > math.Abs(x) {
			break
		}
	}
	return sign | best
}

func TestFloat16Rounding(t *testing.T) {
	formats := map[string]struct {
		widen    func(uint16) float32
		round    func(float32) uint16
		infinity uint16
		nan      uint16
	}{
		"float16":  {f16ToF32, f16FromF32, 0x7c00, nan16},
		"bfloat16": {bf16ToF32, bf16FromF32, 0x7f80, nanBF},
	}
	for name, f := range formats {
		t.Run(name, func(t *testing.T) {
			for h := range uint32(1 << 16) {
				x := f.widen(uint16(h))
				if uint16(h)&0x7fff > f.infinity {
					require.True(t, x != x)
					require.Equal(t, f.nan, f.round(x))
					continue
				}
				require.Equal(t, uint16(h), f.round(x), "%x", h)
			}
			require.Equal(t, f.infinity, f.round(float32(math.Inf(1))))
			r := rand.New(rand.NewPCG(1, 1))
			for range 300 {
				h := uint16(r.UintN(uint(f.infinity)))
				x := float64(f.widen(h))
				above := float64(f.widen(h + 1))
				if h+1 == f.infinity {
					above = x + (x - float64(f.widen(h-1)))
				}
				middle := float32((x + above) / 2)
				for _, y := range []float32{middle, math.Nextafter32(middle, 0), math.Nextafter32(middle, math.MaxFloat32), -middle} {
					if y-y == 0 {
						require.Equal(t, nearest16(f.widen, f.infinity, float64(y)), f.round(y), "%g", y)
					}
				}
			}
		})
	}
	require.Equal(t, float32(65504), f16ToF32(0x7bff))
	require.Equal(t, float32(0x1p-24), f16ToF32(1))
	require.Equal(t, float32(1), f16ToF32(0x3c00))
}
