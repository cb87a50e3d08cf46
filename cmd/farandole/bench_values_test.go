package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/farandole-ml/farandole/collective"
	"github.com/farandole-ml/farandole/kernels"
)

var allTypes = []collective.DType{collective.Float32, collective.Float64, collective.BFloat16, collective.Float16, collective.Int32, collective.Int64, collective.Uint8}

var allRedops = []collective.RedOp{collective.Sum, collective.Prod, collective.Min, collective.Max, collective.Avg}

// What the benchmark expects is what the reduction of the collectives gives, from the left, from the right and as a tree: no order
// changes a bit, for any type, reduction and number of ranks.
func TestBenchValuesAreExactInAnyOrder(t *testing.T) {
	for _, typ := range allTypes {
		for _, op := range allRedops {
			for _, ranks := range []int{1, 2, 3, 8, 37, 256} {
				t.Run(fmt.Sprintf("%v %v %d", typ, op, ranks), func(t *testing.T) {
					p := benchPattern{typ: typ, redop: op, parts: ranks}
					srcs := make([][]byte, ranks)
					for r := range srcs {
						srcs[r] = p.part(1, r)
					}
					want := p.result(1, 0, ranks)
					require.Len(t, want, benchPeriod*typ.Size())
					for name, order := range orders(ranks) {
						red := kernels.Reduction{Type: typ, Op: kernels.RedOp(op), Order: order}
						if op == collective.Avg {
							red.Op, red.Divisor = kernels.Sum, ranks
						}
						got := make([]byte, len(want))
						red.Run([][]byte{got}, srcs)
						require.Zero(t, differing(got, want, typ.Size()), name)
					}
				})
			}
		}
	}
}

// orders are post-order programs for n sources.
func orders(n int) map[string][]int16 {
	right := []int16{int16(n - 1)}
	for k := n - 2; k >= 0; k-- {
		right = append(right, int16(k), kernels.Combine)
	}
	var tree func(first, end int) []int16
	tree = func(first, end int) []int16 {
		if end-first == 1 {
			return []int16{int16(first)}
		}
		mid := (first + end) / 2
		return append(append(tree(first, mid), tree(mid, end)...), kernels.Combine)
	}
	return map[string][]int16{"left": nil, "right": right, "tree": tree(0, n)}
}

// Inputs differ between passes, parts and places; otherwise a check could not fail. So do results between passes.
func TestBenchValuesDiffer(t *testing.T) {
	for _, typ := range allTypes {
		for _, op := range allRedops {
			for _, ranks := range []int{2, 64} { // the average of 256 bytes whose sum wraps is always 0
				p := benchPattern{typ: typ, redop: op, parts: ranks}
				name := fmt.Sprintf("%v %v %d", typ, op, ranks)
				one := p.part(1, 0)
				require.False(t, bytes.Equal(one, p.part(2, 0)), name)
				require.False(t, bytes.Equal(one, p.part(1, 1)), name)
				require.False(t, bytes.Equal(one[:100*typ.Size()], one[100*typ.Size():200*typ.Size()]), name)
				require.False(t, bytes.Equal(one, p.result(1, 0, ranks)), name)
				require.False(t, bytes.Equal(p.moved(1, 0), p.moved(1, 1)), name)
				if op != collective.Min && op != collective.Max { // of many ranks, those are the extremes in every pass
					require.False(t, bytes.Equal(p.result(1, 0, ranks), p.result(2, 0, ranks)), name)
				}
			}
		}
	}
}

// The resting value stays what it is.
func TestNeutralValues(t *testing.T) {
	for _, typ := range allTypes {
		for _, op := range allRedops {
			p := benchPattern{typ: typ, redop: op, parts: 3}
			rest := p.neutral()
			red := kernels.Reduction{Type: typ, Op: kernels.RedOp(op)}
			if op == collective.Avg {
				red.Op, red.Divisor = kernels.Sum, 3
			}
			got := make([]byte, len(rest))
			red.Run([][]byte{got}, [][]byte{rest, rest, rest})
			require.Zero(t, differing(got, rest, typ.Size()), "%v %v", typ, op)
		}
	}
}

func TestHalfBits(t *testing.T) {
	for _, tc := range []struct {
		v         float64
		bf16, f16 uint16
	}{
		{0, 0, 0}, {1, 0x3f80, 0x3c00}, {-2, 0xc000, 0xc000}, {0.5, 0x3f00, 0x3800}, {256, 0x4380, 0x5c00}, {2048, 0x4500, 0x6800},
		{1.0 / 3, 0x3eab, 0x3555}, {257, 0x4380, 0x5c04}, {259, 0x4382, 0x5c0c}, {2047.75, 0x4500, 0x6800}, {math.Ldexp(1, -12), 0x3980, 0x0c00},
	} {
		require.Equal(t, tc.bf16, halfBits(tc.v, 7, 127), "%v as bfloat16", tc.v)
		require.Equal(t, tc.f16, halfBits(tc.v, 10, 15), "%v as float16", tc.v)
	}
}

// A wrong element, one that is at another place, and a part that was left out are all counted.
func TestWrongIn(t *testing.T) {
	p := benchPattern{typ: collective.Float32, parts: 2}
	period := p.part(1, 0)
	b := make([]byte, 4*(3*benchPeriod+7))
	repeatInto(b, period, 5, 4)
	require.Equal(t, period[4*5:4*6], b[:4])
	require.Zero(t, wrongIn(b, period, 5, 4))
	binary.LittleEndian.PutUint32(b[4*5000:], math.Float32bits(1e9))
	binary.LittleEndian.PutUint32(b[4*(3*benchPeriod+6):], math.Float32bits(1e9))
	require.EqualValues(t, 2, wrongIn(b, period, 5, 4))
	require.Greater(t, wrongIn(b, period, 6, 4), int64(3*benchPeriod/2), "shifted by one element")
}
