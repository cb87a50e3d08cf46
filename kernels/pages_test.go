package kernels

import (
	"slices"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
)

func address32(x []float32) uintptr { return uintptr(unsafe.Pointer(unsafe.SliceData(x))) }

func TestPagesAreAlignedAndApart(t *testing.T) {
	var p pages
	var all [][]float32
	for _, n := range []int{0, 1, 15, 16, 1000, ownPages - 1, ownPages, ownPages + 1, hugePage / 4, blockPages, blockPages + 1, 3*blockPages + 7,
		2*ownPages + 3, ownPages, 300_001, ownPages, blockPages - 1, ownPages} {
		x := p.floats(n)
		require.Len(t, x, n)
		require.Equal(t, n, cap(x), "what is appended would be somebody else's")
		if n > 0 {
			require.Zero(t, address32(x)%alignBytes, "%d floats", n)
		}
		require.False(t, slices.ContainsFunc(x, func(v float32) bool { return v != 0 }), "%d floats", n)
		for i := range x {
			x[i] = 1
		}
		for _, other := range all {
			apart := address32(x) >= address32(other)+uintptr(len(other))*4 || address32(x)+uintptr(n)*4 <= address32(other)
			require.True(t, apart, "%d floats share memory with %d others", n, len(other))
		}
		if n > 0 {
			all = append(all, x)
		}
	}
}

func TestPagesShareABlock(t *testing.T) {
	var p pages
	first := p.floats(ownPages)
	require.Zero(t, address32(first)%hugePage)
	second := p.floats(blockPages/2 + 1)
	require.Equal(t, address32(first)+ownPages*4, address32(second))
	large := p.floats(2 * blockPages) // leaves nothing over
	require.Zero(t, address32(large)%hugePage)
	third := p.floats(ownPages + 3)
	require.Equal(t, address32(second)+(blockPages/2+16)*4, address32(third), "the first block is not full")
	fourth := p.floats(ownPages)
	require.Equal(t, address32(third)+(ownPages+16)*4, address32(fourth))
}
