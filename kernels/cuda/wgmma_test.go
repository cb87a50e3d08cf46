//go:build cuda

package cuda

import (
	"bytes"
	"log/slog"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/farandole-ml/farandole/kernels"
	"github.com/farandole-ml/farandole/kernels/kernelstest"
)

const hopper = "CAPABILITY=0:90"

// openTelling opens a GPU in bfloat16 and gives what it logs.
func openTelling(t *testing.T) (d *device, said string) {
	t.Helper()
	var log bytes.Buffer
	d = opened(t, kernels.Config{Precision: kernels.ClassBF16, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	return d, log.String()
}

func TestWGMMAIsChosen(t *testing.T) {
	if !emulated(t, hopper) {
		return
	}
	d, said := openTelling(t)
	require.Equal(t, "bf16-wgmma-sm_90", d.Class())
	require.Same(t, &tilingWGMMA, d.tiling)
	require.NotContains(t, said, "WARN")
	require.True(t, kernels.RoundsFactors(d.Class()))
	require.True(t, kernels.RoundsAttention(d.Class(), 64))
	plain := newDevice(t)
	require.Equal(t, kernels.ClassF32, plain.Class())
	require.Zero(t, plain.functions[kMatmulWGMMANT], "nothing needs it")

	t.Setenv(noWGMMA, "0")
	d, said = openTelling(t)
	require.Equal(t, "bf16-mma-sm_90", d.Class())
	require.Same(t, &tilingBF16, d.tiling)
	require.NotContains(t, said, "WARN")
}

func TestWGMMAIsOfOneCapability(t *testing.T) {
	if !emulated(t, "CAPABILITY=0:100") {
		return
	}
	d, said := openTelling(t)
	require.Equal(t, "bf16-mma-sm_100", d.Class())
	require.NotContains(t, said, "WARN")
	require.Error(t, d.do(func() error { return d.load("ptx/kernels.sm_90a.ptx", kMatmulWGMMANT, kernelCount) }), "it is for 9.0 alone")
}

// TestWrongWGMMA: each layout's product is looked at, and mma.sync has the rest of the work.
func TestWrongWGMMA(t *testing.T) {
	for _, k := range tilingWGMMA.kernels {
		t.Run(k.String(), func(t *testing.T) {
			if !emulated(t, hopper, "WRONG="+k.String()) {
				return
			}
			d, said := openTelling(t)
			require.Equal(t, "bf16-mma-sm_90", d.Class())
			require.Contains(t, said, "products by wgmma are not used")
			require.Contains(t, said, "a wrong product by "+k.String()+": row 0, column 0 is")
			kernelstest.Generators[0].Make(rand.New(rand.NewPCG(1, 3)), 40).Check(t, d)
		})
	}
}

// TestFailingWGMMA: a kernel that breaks the GPU's context leaves nothing to fall back on, and the error says what to do.
func TestFailingWGMMA(t *testing.T) {
	if !emulated(t, hopper, "FAIL=0:3") { // two factors, and then the product
		return
	}
	_, err := kernels.Open("cuda", kernels.Config{Precision: kernels.ClassBF16})
	require.ErrorContains(t, err, "products by wgmma: ")
	require.ErrorContains(t, err, "FARANDOLE_CUDA_WGMMA=0 in the environment has them by mma.sync")
}

func TestWGMMAConformance(t *testing.T) {
	if !emulated(t, hopper) {
		return
	}
	kernelstest.Run(t, func(t testing.TB) kernels.Device {
		d := newBF16(t)
		require.Equal(t, "bf16-wgmma-sm_90", d.Class())
		return d
	})
}

func TestWGMMASideBySide(t *testing.T) {
	if !emulated(t, hopper) {
		return
	}
	productsSideBySide(t, newBF16(t), 2*kernels.BlockMMA+3)
}
