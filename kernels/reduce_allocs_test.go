//go:build !asan

package kernels_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/farandole-ml/farandole/kernels"
)

// Under the address sanitizer the compiler moves every variable to the heap whose address becomes an unsafe.Pointer.
func TestReductionDoesNotAllocate(t *testing.T) {
	for _, arrays := range []int{2, 5, 60} {
		srcs := make([][]byte, arrays)
		for i := range srcs {
			srcs[i] = make([]byte, 400)
		}
		dsts := [][]byte{make([]byte, 400), make([]byte, 400)}
		r := &kernels.Reduction{Type: kernels.BFloat16, Divisor: 2}
		require.Zero(t, testing.AllocsPerRun(100, func() { r.Run(dsts, srcs) }), "%d sources", arrays)
		require.Zero(t, testing.AllocsPerRun(100, func() { kernels.Reduce2(kernels.Float16, kernels.Max, dsts[0], srcs[0], srcs[1]) }))
	}
}
