package kernels_test

import (
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/farandole-ml/farandole/kernels"
	"github.com/farandole-ml/farandole/kernels/kernelstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// newCPU is a device that cuts even small operations for all its threads.
func newCPU(t testing.TB, isa string, threads int) kernels.Device {
	t.Helper()
	d, err := kernels.NewCPU(kernels.Config{ISA: isa, Threads: threads})
	require.NoError(t, err)
	kernels.CutFinely(d)
	t.Cleanup(func() { require.NoError(t, d.Close()) })
	return d
}

func TestReference(t *testing.T) {
	kernelstest.Run(t, func(testing.TB) kernels.Device { return kernels.NewReference() })
}

// isas are the instruction sets to test: all that this machine has, or the one that FARANDOLE_ISA names.
func isas() []string {
	if isa := os.Getenv("FARANDOLE_ISA"); isa != "" {
		return []string{isa}
	}
	return kernels.ISAs()
}

func TestCPU(t *testing.T) {
	for _, isa := range isas() {
		t.Run(isa, func(t *testing.T) {
			kernelstest.Run(t, func(t testing.TB) kernels.Device { return newCPU(t, isa, 2) })
		})
	}
}

// everyDevice runs f for every instruction set and one to three threads.
func everyDevice(t *testing.T, f func(t *testing.T, d kernels.Device)) {
	for _, isa := range isas() {
		for threads := 1; threads <= 3; threads++ {
			d := newCPU(t, isa, threads)
			t.Run(d.Name(), func(t *testing.T) { f(t, d) })
		}
	}
}

// TestEqualBits is the package's promise: every instruction set and number of threads gives the reference's bits, where products read panels in
// place and where they pack them.
func TestEqualBits(t *testing.T) {
	reference := kernels.NewReference()
	seeds := []uint64{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}
	if testing.Short() {
		seeds = seeds[:3]
	}
	for _, cache := range []int{1, 1 << 20} {
		before := kernels.SetFirstCache(cache)
		everyDevice(t, func(t *testing.T, d kernels.Device) { kernelstest.EqualBits(t, reference, d, 70, seeds...) })
		kernels.SetFirstCache(before)
	}
}

// TestEqualBitsHardValues does the same where the functions and the fused multiply-add have their corners.
func TestEqualBitsHardValues(t *testing.T) {
	reference := kernels.NewReference()
	r := rand.New(rand.NewPCG(1, 1))
	// Every 4099th float32.
	var patterns []float32
	for u := uint64(0); u < 1<<32; u += 4099 {
		patterns = append(patterns, math.Float32frombits(uint32(u)))
	}
	// Short significands: x·w+c often lies halfway between two float32, and often nearly so.
	short := func(n, e int) []float32 {
		x := make([]float32, n)
		for i := range x {
			x[i] = float32(math.Ldexp(float64(1+r.IntN(31))/16+math.Ldexp(float64(r.IntN(3)-1), -r.IntN(24)), e-r.IntN(30)))
			if r.IntN(2) == 0 {
				x[i] = -x[i]
			}
		}
		return x
	}
	const m, n = 300, 320
	x, w := make([]float32, 2*m), make([]float32, 2*n)
	c, a, b := short(m, 0), short(m, 0), short(n, 0)
	for i := range m {
		x[2*i], x[2*i+1] = c[i], a[i]
	}
	for j := range n {
		w[2*j], w[2*j+1] = 1, b[j]
	}
	// Rows whose exponentials reach from 1 down past the least subnormal, and whose sums differ.
	const rows, v = 400, 50
	logits := make([]float32, rows*v)
	for i := range logits {
		logits[i] = -float32(r.Float64() * 110 * float64(i/v) / rows)
	}
	buffers := func(t *testing.T, d kernels.Device, inputs ...[]float32) (x []kernels.Buffer) {
		for _, in := range inputs {
			b, err := d.Alloc(len(in))
			require.NoError(t, err)
			d.Upload(b, in)
			x = append(x, b)
		}
		return x
	}
	results := func(t *testing.T, d kernels.Device) [][]float32 {
		ones, out := slices.Repeat([]float32{1}, len(patterns)), make([]float32, len(patterns))
		f := buffers(t, d, patterns, ones, out, out, x, w, make([]float32, m*n), logits, make([]float32, rows))
		targets, err := d.AllocInts(rows)
		require.NoError(t, err)
		d.GELU(f[2], f[0])
		d.GELUBackward(f[3], nil, f[1], f[0])
		d.Linear(f[6], f[4], f[5], nil, m, n, 2)
		d.CrossEntropy(f[8], f[7], targets, rows, v, 1)
		var all [][]float32
		for _, b := range []kernels.Buffer{f[2], f[3], f[6], f[7], f[8]} {
			all = append(all, make([]float32, b.Len()))
			require.NoError(t, d.Download(all[len(all)-1], b))
		}
		return all
	}
	want := results(t, reference)
	everyDevice(t, func(t *testing.T, d kernels.Device) {
		for i, got := range results(t, d) {
			for j, g := range got {
				if w := want[i][j]; math.Float32bits(w) != math.Float32bits(g) && !(w != w && g != g) {
					t.Fatalf("result %d, element %d: %x, the reference has %x", i, j, g, w)
				}
			}
		}
	})
}

// FuzzShapes lets the fuzzer choose operation, shape and values.
func FuzzShapes(f *testing.F) {
	for i := range kernelstest.Generators {
		f.Add(uint8(i), uint64(i), uint16(50))
	}
	f.Fuzz(func(t *testing.T, op uint8, seed uint64, size uint16) {
		g := kernelstest.Generators[int(op)%len(kernelstest.Generators)]
		reference := kernels.NewReference()
		for _, isa := range isas() {
			d := newCPU(t, isa, int(1+seed%3))
			p := g.Make(rand.New(rand.NewPCG(seed, 3)), 1+int(size)%100)
			p.Check(t, d)
			kernelstest.EqualBitsOf(t, reference, d, p, seed)
		}
	})
}

// TestNoAllocation checks the operations of a training step in the steady state.
func TestNoAllocation(t *testing.T) {
	for _, isa := range isas() {
		if isa == "go" {
			continue // CrossEntropy has a temporary row there
		}
		d := newCPU(t, isa, 2)
		step := kernelstest.Step(t, d)
		step()
		require.LessOrEqual(t, testing.AllocsPerRun(20, step), 1.0, "%s: the Slice is the only allocation", isa)
	}
}

func TestVectors(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 7))
	for n := range 70 {
		a, b, dst := make([]float32, n), make([]float32, n), make([]float32, n+1)
		for i := range a {
			a[i], b[i] = r.Float32(), r.Float32()
		}
		kernels.AddF32(dst[:n], a, b)
		for i := range a {
			require.Equal(t, a[i]+b[i], dst[i])
		}
		require.Zero(t, dst[n])
		require.Equal(t, -1, kernels.FirstNonFinite(a))
		for i := n - 1; i >= 0; i-- {
			a[i] = []float32{float32(math.NaN()), float32(math.Inf(1)), float32(math.Inf(-1))}[i%3]
			require.Equal(t, i, kernels.FirstNonFinite(a))
		}
	}
	x := make([]float32, 100)
	require.Zero(t, testing.AllocsPerRun(100, func() { kernels.AddF32(x, x, x); kernels.FirstNonFinite(x) }))
	require.Panics(t, func() { kernels.AddF32(x, x, x[1:]) })
	for _, isa := range kernels.ISAs() {
		require.Positive(t, kernels.PeakGFLOPS(kernels.Config{Threads: 2, ISA: isa}, 1), isa)
	}
	require.Panics(t, func() { kernels.PeakGFLOPS(kernels.Config{ISA: "mmx"}, 1) })
	require.Positive(t, kernels.TriadGBs(2, 1))
}

// TestCopyPast copies between all places in a cache line, and looks at what lies beside.
func TestCopyPast(t *testing.T) {
	src, dst := make([]byte, 512), make([]byte, 512)
	for i := range src {
		src[i] = byte(i%251 + 1)
	}
	for at := range 67 {
		for _, n := range []int{0, 1, 3, 63, 64, 65, 127, 128, 300} {
			clear(dst)
			from := (at*7 + n) % 70
			kernels.CopyPast(dst[at:at+n], src[from:from+n])
			want := make([]byte, len(dst))
			copy(want[at:], src[from:from+n])
			require.Equal(t, want, dst, "%d bytes to place %d", n, at)
		}
	}
	require.Panics(t, func() { kernels.CopyPast(dst[:1], src[:2]) })
	require.Zero(t, testing.AllocsPerRun(100, func() { kernels.CopyPast(dst, src) }))
}

func TestConfig(t *testing.T) {
	_, err := kernels.NewCPU(kernels.Config{ISA: "mmx"})
	require.ErrorContains(t, err, `"mmx"`)
	for _, threads := range []int{-1, 4097, 1 << 16, 1 << 40} {
		_, err = kernels.NewCPU(kernels.Config{Threads: threads})
		require.ErrorContains(t, err, "use 0 for all processors, or a number up to 4096")
	}
	d, err := kernels.NewCPU(kernels.Config{})
	require.NoError(t, err)
	require.Equal(t, kernels.ClassF32, d.Class())
	require.Contains(t, d.Name(), kernels.ISAs()[0])
	require.NoError(t, d.Close())
	require.NoError(t, d.Close())
}
