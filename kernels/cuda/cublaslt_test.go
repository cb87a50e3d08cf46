//go:build cuda

package cuda

import (
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/farandole-ml/farandole/kernels"
	"github.com/farandole-ml/farandole/kernels/kernelstest"
)

var cublasLtConfig = kernels.Config{Precision: kernels.ClassBF16, Products: kernels.ProductsCuBLASLt}

func newCuBLASLt(t testing.TB) *device {
	t.Helper()
	_, missing := loadCuBLASLt()
	skipWithout(t, missing)
	return opened(t, cublasLtConfig)
}

func TestCuBLASLtConformance(t *testing.T) {
	kernelstest.Run(t, func(t testing.TB) kernels.Device { return newCuBLASLt(t) })
}

func TestCuBLASLtClass(t *testing.T) {
	if !emulated(t, "GPUS=2", "CAPABILITY=1:90", "CUBLASLT_VERSION=120903") {
		return
	}
	for rank, class := range []string{"bf16-cublaslt-sm_80-120903-8", "bf16-cublaslt-sm_90-120903-8"} {
		cfg := cublasLtConfig
		cfg.LocalRank = rank
		require.Equal(t, class, opened(t, cfg).Class())
		require.True(t, kernels.RoundsFactors(class))
		require.True(t, kernels.RoundsAttention(class, kernels.MaxRoundedHead))
	}
}

func TestCuBLASLtMistakes(t *testing.T) {
	for _, c := range []struct {
		device string
		cfg    kernels.Config
		says   string
	}{
		{"cuda", kernels.Config{Products: "mkl"}, `device cuda: products "mkl": use own or cublaslt`},
		{"cuda", kernels.Config{Products: kernels.ProductsCuBLASLt}, "device cuda: products cublaslt: it multiplies bfloat16: use precision bf16 with it, or products own"},
		{"cpu", cublasLtConfig, "kernels: products cublaslt: a CPU has only products own and amx: leave that out, or use device cuda"},
	} {
		_, err := kernels.Open(c.device, c.cfg)
		require.EqualError(t, err, c.says)
	}
}

// Where the library is not, one sentence says where it was looked for.
func TestNoCuBLASLt(t *testing.T) {
	if os.Getenv(childOf) == t.Name() {
		_, err := kernels.Open("cuda", cublasLtConfig)
		require.ErrorContains(t, err, "device cuda: products cublaslt: cuBLASLt is not here (libcublasLt.so.13: cannot open")
		require.ErrorContains(t, err, "libcublasLt.so.12: cannot open")
		require.ErrorContains(t, err, "LD_LIBRARY_PATH")
		newBF16(t) // nothing else needs it
		return
	}
	needEmulator(t)
	dir := t.TempDir()
	for _, file := range []string{"libcuda.so.1", "libnvidia-ml.so.1"} {
		for _, at := range filepath.SplitList(os.Getenv("LD_LIBRARY_PATH")) {
			if _, err := os.Stat(filepath.Join(at, file)); err == nil {
				require.NoError(t, os.Symlink(filepath.Join(at, file), filepath.Join(dir, file)))
				break
			}
		}
	}
	t.Setenv("LD_LIBRARY_PATH", dir)
	emulated(t)
}

// linear gives the bits of a layer's results for random values of a shape, where results and bias lie off values behind an aligned address.
func linear(t *testing.T, d *device, m, n, k, off int) (all [][]float32) {
	t.Helper()
	r := rand.New(rand.NewPCG(uint64(m), uint64(n*k)))
	random := func(count int) kernels.Buffer {
		x := make([]float32, count)
		for i := range x {
			x[i] = r.Float32() - 0.5
		}
		b, err := d.Alloc(count + off)
		require.NoError(t, err)
		b = b.Slice(off, count)
		d.Upload(b, x)
		return b
	}
	x, w, bias, dout, out, dx, dw := random(m*k), random(n*k), random(n), random(m*n), random(m*n), random(m*k), random(n*k)
	d.Linear(out, x, w, bias, m, n, k)
	d.LinearBackward(dx, dw, nil, dout, x, w, m, n, k)
	for _, b := range []kernels.Buffer{out, dx, dw} {
		got := make([]float32, b.Len())
		require.NoError(t, d.Download(got, b))
		all = append(all, got)
	}
	return all
}

// An algorithm is asked for once for a shape, or the emulator refuses, and what is computed does not depend on where it lies.
func TestCuBLASLtIsAFunctionOfTheShape(t *testing.T) {
	d, own := newCuBLASLt(t), newBF16(t)
	for _, s := range [][3]int{{1, 1, 1}, {5, 3, 7}, {16, 24, 32}, {33, 17, 1030}} {
		want := linear(t, d, s[0], s[1], s[2], 0)
		plans := len(d.cublasLt.plans)
		for off := 1; off < 4; off++ {
			require.Equal(t, want, linear(t, d, s[0], s[1], s[2], off), "%v, %d values behind an aligned address", s, off)
		}
		require.Len(t, d.cublasLt.plans, plans, "%v", s)
		for i, x := range linear(t, own, s[0], s[1], s[2], 0) {
			require.InDeltaSlice(t, x, want[i], 1e-4, "%v", s)
		}
	}
}

// Steady state allocates nothing.
func TestCuBLASLtAllocatesNothing(t *testing.T) {
	d := newCuBLASLt(t)
	x := uploaded(t, d, make([]float32, 64)...)
	y := uploaded(t, d, make([]float32, 64)...)
	call := func() {
		d.Linear(y, x, x, nil, 8, 8, 8)
		d.flush()
	}
	call()
	require.Zero(t, testing.AllocsPerRun(20, call))
}

// A shape for which there is no algorithm has the bits of the own kernels.
func TestCuBLASLtWithoutAnAlgorithm(t *testing.T) {
	if !emulated(t, "CUBLASLT_NONE=1030") {
		return
	}
	d, own := newCuBLASLt(t), newBF16(t)
	x, w := make([]float32, 5*1030), make([]float32, 3*1030)
	r := rand.New(rand.NewPCG(1, 2))
	for _, s := range [][]float32{x, w} {
		for i := range s {
			s[i] = r.Float32() - 0.5
		}
	}
	forward := func(d *device) []float32 {
		got, out := make([]float32, 15), uploaded(t, d, make([]float32, 15)...)
		d.Linear(out, uploaded(t, d, x...), uploaded(t, d, w...), nil, 5, 3, 1030)
		require.NoError(t, d.Download(got, out))
		return got
	}
	require.Equal(t, forward(own), forward(d))
	require.Len(t, d.cublasLt.plans, 1)
	for _, plan := range d.cublasLt.plans {
		require.Nil(t, plan)
	}
}

// A failure of the library is one of the device: it ends this worker alone.
func TestCuBLASLtThatFails(t *testing.T) {
	if !emulated(t, "CUBLASLT_FAIL=2") {
		return
	}
	cfg := cublasLtConfig
	cfg.Logger = slog.New(slog.DiscardHandler)
	d := opened(t, cfg)
	x, y := uploaded(t, d, 1, 2, 3, 4), uploaded(t, d, 0, 0, 0, 0)
	d.Linear(y, x, x, nil, 2, 2, 2)
	got := make([]float32, 4)
	require.NoError(t, d.Download(got, y))
	require.Equal(t, []float32{5, 11, 11, 25}, got)
	d.Linear(y, x, x, nil, 2, 2, 2)
	requireFailed(t, d, y, "GPU 0: Linear: cuBLASLt: it does not multiply: the function failed to launch on the GPU (status 13)")
}
