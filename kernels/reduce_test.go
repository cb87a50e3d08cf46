package kernels_test

import (
	"math"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"

	"github.com/farandole-ml/farandole/kernels"
)

func raw[T any](x ...T) []byte {
	var t T
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(x))), len(x)*int(unsafe.Sizeof(t)))
}

func TestReductionValues(t *testing.T) {
	f32 := func(u uint32) float32 { return math.Float32frombits(u) }
	negativeZero := float32(math.Copysign(0, -1))
	cases := map[string]struct {
		r    kernels.Reduction
		srcs [][]byte
		want []byte
	}{
		"sum":           {kernels.Reduction{}, [][]byte{raw[float32](1, 2), raw[float32](3, 5)}, raw[float32](4, 7)},
		"left":          {kernels.Reduction{}, [][]byte{raw[float32](1), raw[float32](0x1p24), raw[float32](-0x1p24)}, raw[float32](0)},
		"right":         {kernels.Reduction{Order: []int16{0, 1, 2, -1, -1}}, [][]byte{raw[float32](1), raw[float32](0x1p24), raw[float32](-0x1p24)}, raw[float32](1)},
		"one source":    {kernels.Reduction{}, [][]byte{raw(f32(0xffc12345), 2)}, raw(f32(0x7fc00000), 2)},
		"min":           {kernels.Reduction{Op: kernels.Min}, [][]byte{raw(0, negativeZero, 3, f32(0xff800001)), raw(negativeZero, 0, 2, 7)}, raw(negativeZero, negativeZero, 2, f32(0x7fc00000))},
		"max":           {kernels.Reduction{Op: kernels.Max}, [][]byte{raw(0, negativeZero, 3, 7), raw(negativeZero, 0, 2, f32(0xff800001))}, raw(0, 0, 3, f32(0x7fc00000))},
		"average":       {kernels.Reduction{Divisor: 3}, [][]byte{raw[float32](1), raw[float32](1), raw[float32](2)}, raw[float32](4.0 / 3)},
		"rounded":       {kernels.Reduction{Round: true, Divisor: 3}, [][]byte{raw[float32](1 + 0x1p-8), raw[float32](1 + 0x1p-7)}, raw(f32(0x3f2b0000))},
		"float64":       {kernels.Reduction{Type: kernels.Float64, Op: kernels.Prod}, [][]byte{raw(1.5), raw(3.0)}, raw(4.5)},
		"bfloat16":      {kernels.Reduction{Type: kernels.BFloat16}, [][]byte{raw[uint16](0x3f80), raw[uint16](0x3c00)}, raw[uint16](0x3f81)},
		"bfloat16 even": {kernels.Reduction{Type: kernels.BFloat16}, [][]byte{raw[uint16](0x3f80), raw[uint16](0x3b80)}, raw[uint16](0x3f80)},
		"float16":       {kernels.Reduction{Type: kernels.Float16, Op: kernels.Prod, Divisor: 2}, [][]byte{raw[uint16](0x4000, 0x7bff), raw[uint16](0x4200, 0x4000)}, raw[uint16](0x4200, 0x7c00)},
		"int32 wraps":   {kernels.Reduction{Type: kernels.Int32}, [][]byte{raw[int32](math.MaxInt32, -7), raw[int32](1, 0)}, raw[int32](math.MinInt32, -7)},
		"int32 average": {kernels.Reduction{Type: kernels.Int32, Divisor: 2}, [][]byte{raw[int32](-7, 7), raw[int32](0, 0)}, raw[int32](-3, 3)},
		"int64":         {kernels.Reduction{Type: kernels.Int64, Op: kernels.Max}, [][]byte{raw[int64](-7, math.MinInt64), raw[int64](-8, 0)}, raw[int64](-7, 0)},
		"uint8":         {kernels.Reduction{Type: kernels.Uint8, Divisor: 300}, [][]byte{raw[uint8](200), raw[uint8](100)}, raw[uint8](0)},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			a, b := make([]byte, len(c.want)), make([]byte, len(c.want))
			c.r.Run([][]byte{a, b}, c.srcs)
			require.Equal(t, c.want, a)
			require.Equal(t, c.want, b)
			c.r.Run([][]byte{a, c.srcs[0]}, c.srcs)
			require.Equal(t, c.want, c.srcs[0], "in place")
		})
	}
}

func TestReductionMisuse(t *testing.T) {
	four, eight := make([]byte, 4), make([]byte, 8)
	run := func(r kernels.Reduction, dsts, srcs [][]byte) func() { return func() { r.Run(dsts, srcs) } }
	two := [][]byte{four, four}
	for name, f := range map[string]func(){
		"no type":          run(kernels.Reduction{Type: 7}, two, two),
		"no operation":     run(kernels.Reduction{Op: 4}, two, two),
		"no sources":       run(kernels.Reduction{}, two, nil),
		"no destination":   run(kernels.Reduction{}, nil, two),
		"lengths":          run(kernels.Reduction{}, [][]byte{four, eight}, two),
		"source lengths":   run(kernels.Reduction{}, [][]byte{eight}, two),
		"part of a value":  run(kernels.Reduction{Type: kernels.Float64}, two, two),
		"rounded integers": run(kernels.Reduction{Type: kernels.Int32, Round: true}, two, two),
		"divisor":          run(kernels.Reduction{Divisor: -1}, two, two),
		"empty order":      run(kernels.Reduction{Order: []int16{}}, two, two),
		"no such source":   run(kernels.Reduction{Order: []int16{2}}, two, two),
		"no such code":     run(kernels.Reduction{Order: []int16{0, 1, -2}}, two, two),
		"nothing to add":   run(kernels.Reduction{Order: []int16{0, -1}}, two, two),
		"a value left":     run(kernels.Reduction{Order: []int16{0, 1}}, two, two),
		"too deep":         run(kernels.Reduction{Order: append(make([]int16, 33), -1, -1)}, two, two),
		"two lengths":      func() { kernels.Reduce2(kernels.Float32, kernels.Sum, four, four, eight) },
		"two operations":   func() { kernels.Reduce2(kernels.Float32, 9, four, four, four) },
	} {
		t.Run(name, func(t *testing.T) { require.Panics(t, f) })
	}
	require.NotPanics(t, run(kernels.Reduction{Type: kernels.Int64, Order: []int16{0, 1, -1}}, [][]byte{{}}, [][]byte{{}, {}}))
}
