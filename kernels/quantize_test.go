package kernels_test

import (
	"encoding/binary"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/farandole-ml/farandole/kernels"
)

// hardFloats is hardBits as float32; with tame, all are finite and of like size.
func hardFloats(rng *rand.Rand, n int, tame bool) []float32 {
	b := make([]byte, 4*n)
	hardBits(rng, kernels.Float32, b)
	x := make([]float32, n)
	for i := range x {
		x[i] = math.Float32frombits(binary.NativeEndian.Uint32(b[4*i:]))
		if tame {
			x[i] = float32(rng.NormFloat64())
		}
	}
	return x
}

func TestInt8EqualBits(t *testing.T) {
	rng := rand.New(rand.NewPCG(6, 6))
	for round := range 300 {
		n := rng.IntN(900)
		x := hardFloats(rng, n, round%3 == 0)
		if round%3 == 1 { // a block of tiny values, where the scale is inexact or 0
			for i := range x {
				x[i] = math.Float32frombits(rng.Uint32N(1000) | rng.Uint32N(2)<<31)
			}
		}
		want, back, rest := make([]byte, kernels.Int8Bytes(n)), make([]float32, n), append([]float32(nil), x...)
		kernels.EncodeInt8On("go", want, x)
		kernels.DecodeInt8On("go", back, want)
		kernels.ResidualOn("go", rest, back)
		anything := make([]byte, len(want))
		for i := range anything {
			anything[i] = byte(rng.Uint32())
		}
		meaning := make([]float32, n)
		kernels.DecodeInt8On("go", meaning, anything)
		for _, isa := range isas() {
			got, values, left := make([]byte, len(want)), make([]float32, n), append([]float32(nil), x...)
			kernels.EncodeInt8On(isa, got, x)
			require.Equal(t, want, got, isa)
			kernels.DecodeInt8On(isa, values, want)
			require.Equal(t, raw(back...), raw(values...), isa)
			kernels.ResidualOn(isa, left, values)
			require.Equal(t, raw(rest...), raw(left...), isa)
			kernels.DecodeInt8On(isa, values, anything)
			require.Equal(t, raw(meaning...), raw(values...), isa)
		}
	}
}

func TestInt8Values(t *testing.T) {
	inf := float32(math.Inf(1))
	nan := float32(math.NaN())
	x := make([]float32, 2*kernels.QuantBlock+3)
	x[0], x[1], x[2], x[3] = 126, -126, 0.5, 1.5          // scale 1, halves go to even
	x[4], x[5], x[6] = inf, -inf, nan                     // beside finite values
	x[kernels.QuantBlock] = math.MaxFloat32               // another block, another scale
	x[kernels.QuantBlock+1] = -math.MaxFloat32            //
	x[2*kernels.QuantBlock] = math.SmallestNonzeroFloat32 // too small for a scale
	b, y := make([]byte, kernels.Int8Bytes(len(x))), make([]float32, len(x))
	kernels.EncodeInt8(b, x)
	kernels.DecodeInt8(y, b)
	require.Equal(t, []float32{126, -126, 0, 2, inf, -inf}, y[:6])
	require.True(t, y[6] != y[6])
	require.InEpsilon(t, float64(math.MaxFloat32), float64(y[kernels.QuantBlock]), 1e-6)
	require.InEpsilon(t, -float64(math.MaxFloat32), float64(y[kernels.QuantBlock+1]), 1e-6)
	require.Zero(t, y[2*kernels.QuantBlock])

	kernels.Residual(x, y)
	require.Equal(t, []float32{0, 0, 0.5, -0.5, 0, 0, 0}, x[:7])
	require.Equal(t, float32(math.SmallestNonzeroFloat32), x[2*kernels.QuantBlock])

	rng := rand.New(rand.NewPCG(7, 7))
	x = hardFloats(rng, kernels.QuantBlock, true)
	most := float32(0)
	for _, v := range x {
		most = max(most, float32(math.Abs(float64(v))))
	}
	kernels.EncodeInt8(b[:kernels.Int8Bytes(len(x))], x)
	kernels.DecodeInt8(y[:len(x)], b[:kernels.Int8Bytes(len(x))])
	for i, v := range x {
		require.InDelta(t, v, y[i], float64(most)/126/2*1.0001)
	}
	require.Panics(t, func() { kernels.EncodeInt8(b, x) })
	require.Panics(t, func() { kernels.DecodeInt8(x, b) })
	require.Panics(t, func() { kernels.Residual(x, y) })
	require.Zero(t, testing.AllocsPerRun(10, func() {
		kernels.EncodeInt8(b[:kernels.Int8Bytes(len(x))], x)
		kernels.DecodeInt8(y[:len(x)], b[:kernels.Int8Bytes(len(x))])
		kernels.Residual(x, y[:len(x)])
	}))
}
