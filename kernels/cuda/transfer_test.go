//go:build cuda

package cuda

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/farandole-ml/farandole/kernels"
	"github.com/farandole-ml/farandole/kernels/kernelstest"
)

func counted(n int) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(i % 1000003)
	}
	return x
}

// TestTransfers copies lengths around the stage's, from and to memory of either kind, and changes what was uploaded at once.
func TestTransfers(t *testing.T) {
	d := newDevice(t)
	for _, n := range []int{1, 1000, stageLen - 1, stageLen, stageLen + 1, 2*stageLen + 17} {
		for _, registered := range []bool{false, true} {
			memory := func() []float32 {
				if registered {
					return d.AllocHost(n)
				}
				return make([]float32, n)
			}
			src, dst, want := memory(), memory(), counted(n)
			require.Equal(t, registered, d.registered(src))
			copy(src, want)
			b, err := d.Alloc(n)
			require.NoError(t, err)
			d.Upload(b, src)
			clear(src)
			d.Upload(b.Slice(n/2, 1), []float32{-1})
			want[n/2] = -1
			require.NoError(t, d.Download(dst, b))
			require.Equal(t, want, dst, "%d values, registered: %v", n, registered)
		}
	}
}

// TestManySmallUploads: the stage is full several times before anything waits.
func TestManySmallUploads(t *testing.T) {
	d := newDevice(t)
	const n, times = 30001, 100
	b, err := d.Alloc(n * times)
	require.NoError(t, err)
	x, want := make([]float32, n), make([]float32, 0, n*times)
	for i := range times {
		for j := range x {
			x[j] = float32(i*n + j)
		}
		d.Upload(b.Slice(i*n, n), x)
		want = append(want, x...)
	}
	got := make([]float32, n*times)
	require.NoError(t, d.Download(got, b))
	require.Equal(t, want, got)
}

// TestMemoryComesBack: a buffer that nobody has any more is another's memory, which begins as zeros.
func TestMemoryComesBack(t *testing.T) {
	d := newDevice(t)
	const n = 1 << 20
	x := counted(n)
	for range 300 { // more than the emulator's memory in all
		b := uploaded(t, d, x...)
		y, err := d.Alloc(n)
		require.NoError(t, err)
		got := make([]float32, 3)
		require.NoError(t, d.Download(got, y.Slice(n-3, 3)))
		require.Equal(t, []float32{0, 0, 0}, got)
		d.Copy(y, b)
	}
}

// TestNoAllocation: a training step's calls allocate nothing, but for the Slice.
func TestNoAllocation(t *testing.T) {
	d := newDevice(t)
	operations := kernelstest.Step(t, d)
	ids, err := d.AllocInts(8)
	require.NoError(t, err)
	losses, err := d.Alloc(8)
	require.NoError(t, err)
	tokens, loss := make([]int32, 8), make([]float32, 8)
	step := func() {
		d.UploadInts(ids, tokens)
		operations()
		require.NoError(t, d.Download(loss, losses))
	}
	for range 3 { // seen, seen again, a graph
		step()
	}
	require.LessOrEqual(t, testing.AllocsPerRun(3, step), 1.0)
}

// TestProductsSideBySide: however many canonical blocks are computed at once, the bits are the same.
func TestProductsSideBySide(t *testing.T) {
	t.Run("f32", func(t *testing.T) { productsSideBySide(t, newDevice(t), 5*kernels.BlockK+3) })
	t.Run("bf16", func(t *testing.T) { productsSideBySide(t, newBF16(t), 2*kernels.BlockMMA+3) })
}

func productsSideBySide(t *testing.T, d *device, k int) {
	const m, n = 5, 7
	var want []float32
	for _, processors := range []int{1, 2, 3, 5, 100} {
		d.processors = processors
		x, w, bias, out := uploaded(t, d, counted(m*k)...), uploaded(t, d, counted(n*k)...), uploaded(t, d, counted(n)...), uploaded(t, d, counted(m*n)...)
		dw := uploaded(t, d, counted(n*k)...)
		d.Scale(x, 1e-3)
		d.Linear(out, x, w, bias, m, n, k)
		d.LinearBackward(nil, dw, nil, out, x, w, m, n, k)
		got := make([]float32, m*n+n*k)
		require.NoError(t, d.Download(got[:m*n], out))
		require.NoError(t, d.Download(got[m*n:], dw))
		if want == nil {
			want = got
		}
		require.Equal(t, want, got, "%d processors", processors)
	}
}
