package kernels_test

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/farandole-ml/farandole/kernels"
	"github.com/farandole-ml/farandole/kernels/kernelstest"
)

// classesBF16 are the CPU's classes of products of bfloat16, and what multiplies.
var classesBF16 = map[string]string{kernels.ClassBF16: kernels.ProductsOwn, kernels.ClassBF16AMX: kernels.ProductsAMX}

// newBF16 is a device of such a class that cuts even small operations for all its threads.
func newBF16(t testing.TB, class, isa string, threads int) kernels.Device {
	t.Helper()
	d, err := kernels.NewCPU(kernels.Config{ISA: isa, Threads: threads, Precision: kernels.ClassBF16, Products: classesBF16[class]})
	require.NoError(t, err)
	require.Equal(t, class, d.Class())
	require.Contains(t, d.Name(), class)
	kernels.CutFinely(d)
	t.Cleanup(func() { require.NoError(t, d.Close()) })
	return d
}

// everyBF16 runs f for every instruction set with and without an instruction for pairs, on one thread and on several.
func everyBF16(t *testing.T, class string, f func(t *testing.T, d kernels.Device)) {
	for _, isa := range isas() {
		for threads := 1; threads <= 3; threads++ {
			d := newBF16(t, class, isa, threads)
			t.Run(d.Name(), func(t *testing.T) { f(t, d) })
		}
		d := newBF16(t, class, isa, 2)
		kernels.EmulateProducts(d)
		t.Run(d.Name()+" emulated", func(t *testing.T) { f(t, d) })
	}
}

// plainBF16 is plain Go: what defines the class.
func plainBF16(t testing.TB, class string) kernels.Device { return newBF16(t, class, "go", 1) }

func TestBF16Devices(t *testing.T) {
	for class := range classesBF16 {
		for _, isa := range isas() {
			t.Run(class+"/"+isa, func(t *testing.T) {
				kernelstest.Run(t, func(t testing.TB) kernels.Device { return newBF16(t, class, isa, 2) })
			})
		}
	}
}

func TestBF16ClassEqualBits(t *testing.T) {
	seeds := []uint64{0, 1, 2, 3, 4, 5}
	if testing.Short() {
		seeds = seeds[:2]
	}
	for class := range classesBF16 {
		want := plainBF16(t, class)
		everyBF16(t, class, func(t *testing.T, d kernels.Device) { kernelstest.EqualBits(t, want, d, 70, seeds...) })
	}
}

// linearOn is x[m,k]·w[n,k]ᵀ on a device.
func linearOn(t testing.TB, d kernels.Device, x, w []float32, m, n, k int) []float32 {
	t.Helper()
	return biasedOn(t, d, x, w, nil, m, n, k)
}

// biasedOn is the same with a bias, if there is one.
func biasedOn(t testing.TB, d kernels.Device, x, w, bias []float32, m, n, k int) []float32 {
	t.Helper()
	var b [4]kernels.Buffer
	for i, size := range []int{m * n, m * k, n * k, len(bias)} {
		if size == 0 {
			continue
		}
		var err error
		b[i], err = d.Alloc(size)
		require.NoError(t, err)
	}
	d.Upload(b[1], x)
	d.Upload(b[2], w)
	if bias != nil {
		d.Upload(b[3], bias)
	}
	d.Linear(b[0], b[1], b[2], b[3], m, n, k)
	out := make([]float32, m*n)
	require.NoError(t, d.Download(out, b[0]))
	return out
}

// TestBF16Flushes gives values to chains by hand: what becomes of sums near the least normal number.
func TestBF16Flushes(t *testing.T) {
	const least = 0x1p-126
	negativeZero := float32(math.Copysign(0, -1))
	for name, c := range map[string]struct {
		x, w []float32
		want float32
	}{
		"a product":                   {[]float32{3}, []float32{5}, 15},
		"the odd term first":          {[]float32{1, 1}, []float32{-0x1p30, 0x1p30 + 0x1p6}, 0},
		"a factor is rounded to even": {[]float32{1}, []float32{1 + 0x1p-8}, 1},
		"and up":                      {[]float32{1}, []float32{1 + 3*0x1p-8}, 1 + 0x1p-6},
		"a subnormal factor":          {[]float32{0x1p100}, []float32{0x1p-127}, 0},
		"a negative subnormal factor": {[]float32{0x1p100}, []float32{-0x1p-127}, 0},
		// To seven bits these are the least normal number, but they are zeros before they are rounded.
		"the largest subnormal factor":          {[]float32{0x1p100}, []float32{0x1.fffffcp-127}, 0},
		"the largest negative subnormal factor": {[]float32{0x1p126}, []float32{-0x1.fffffcp-127}, 0},
		"one in the odd place":                  {[]float32{0, 0x1p126}, []float32{0, 0x1.fffffcp-127}, 0},
		"one on the other side":                 {[]float32{0x1.fffffcp-127}, []float32{0x1p100}, 0},
		"the least normal":                      {[]float32{0x1p-63}, []float32{0x1p-63}, least},
		"less than that":                        {[]float32{0x1p-63}, []float32{0x1.fep-64}, 0},
		"a subnormal difference":                {[]float32{0x1p-63, 0x1p-63}, []float32{-0x1p-64, 0x1p-63}, 0},
		// The least normal minus a little: to 24 bits that is it again only up to half of the distance to the number before.
		"less by 2^-150":         {[]float32{0x1p-75, 0x1p-63}, []float32{-0x1p-75, 0x1p-63}, 0},
		"less by 2^-151":         {[]float32{0x1p-75, 0x1p-63}, []float32{-0x1p-76, 0x1p-63}, least},
		"less by more":           {[]float32{0x1p-75, 0x1p-63}, []float32{-0x1.02p-76, 0x1p-63}, 0},
		"less by 2^-152":         {[]float32{0x1p-76, 0x1p-63}, []float32{-0x1p-76, 0x1p-63}, least},
		"less by 2^-252":         {[]float32{least, 0x1p-63}, []float32{-least, 0x1p-63}, least},
		"infinity":               {[]float32{float32(math.Inf(1)), 1}, []float32{1, 1}, float32(math.Inf(1))},
		"infinity times too few": {[]float32{float32(math.Inf(1))}, []float32{0x1p-130}, float32(math.NaN())},
		"nothing left":           {[]float32{1, 1}, []float32{-1, 1}, 0},
		"a zero of each sign":    {[]float32{1, 1}, []float32{negativeZero, 0}, 0},
		"no pair is whole":       {[]float32{1, 1, 1}, []float32{1, 1, 1}, 3},
		"three of a pair":        {[]float32{1, 1, 1}, []float32{0x1p24, -0x1p24, 1}, 1},
	} {
		everyBF16(t, kernels.ClassBF16, func(t *testing.T, d kernels.Device) {
			got := linearOn(t, d, c.x, c.w, 1, 1, len(c.x))[0]
			if math.IsNaN(float64(c.want)) {
				require.True(t, math.IsNaN(float64(got)), name)
				return
			}
			require.Equal(t, math.Float32bits(c.want), math.Float32bits(got), "%s: got %x, want %x", name, got, c.want)
		})
	}
}

// TestBF16Groups gives values to a chain of groups by hand.
func TestBF16Groups(t *testing.T) {
	negativeZero := float32(math.Copysign(0, -1))
	// at is n zeros but for some values.
	at := func(n int, values map[int]float32) []float32 {
		x := make([]float32, n)
		for i, v := range values {
			x[i] = v
		}
		return x
	}
	ones := func(n int) []float32 {
		x := make([]float32, n)
		for i := range x {
			x[i] = 1
		}
		return x
	}
	for name, c := range map[string]struct {
		x, w []float32
		bias float32
		want float32
	}{
		"even and odd terms apart":     {at(4, map[int]float32{0: 0x1p24, 1: 1, 2: -0x1p24, 3: 1}), ones(4), 0, 2},
		"a group after the other":      {at(34, map[int]float32{0: 0x1p24, 2: 1, 32: -0x1p24}), ones(34), 0, 0},
		"terms 0 and 32 apart":         {at(34, map[int]float32{0: 0x1p24, 32: 1, 33: 1}), ones(34), 0, 0x1p24 + 2},
		"the bias first":               {at(2, map[int]float32{0: 1}), ones(2), 0x1p24, 0x1p24},
		"a bias that is subnormal":     {[]float32{0x1p-63}, []float32{0x1p-63}, 0x1p-127, 0x1p-126},
		"a small group is zero":        {[]float32{0x1p-63, 0x1p-63}, []float32{0x1p-63, -0x1.8p-63}, 1, 1},
		"a small sum is zero":          {[]float32{0x1p-63}, []float32{0x1p-63}, -0x1.8p-126, negativeZero},
		"zeros end a short group":      {[]float32{0x1p-100, 0x1p-100}, []float32{-0x1p-100, -0x1p-100}, negativeZero, 0},
		"nothing ends a whole one":     {slices.Repeat([]float32{0x1p-100}, 32), slices.Repeat([]float32{-0x1p-100}, 32), negativeZero, negativeZero},
		"a chain of more than a block": {at(300, map[int]float32{0: 0x1p24, 299: 1}), ones(300), 0, 0x1p24},
	} {
		everyBF16(t, kernels.ClassBF16AMX, func(t *testing.T, d kernels.Device) {
			got := biasedOn(t, d, c.x, c.w, []float32{c.bias}, 1, 1, len(c.x))[0]
			require.Equal(t, math.Float32bits(c.want), math.Float32bits(got), "%s: got %x, want %x", name, got, c.want)
		})
	}
}

// TestBF16HardValues compares chains of three pairs, or two groups, whose terms and sums lie around the least normal number, around each
// other's last bits, or anywhere.
func TestBF16HardValues(t *testing.T) {
	t.Run("bf16", func(t *testing.T) { hardValues(t, kernels.ClassBF16, 160, 130, 5) })
	t.Run("bf16-amx", func(t *testing.T) { hardValues(t, kernels.ClassBF16AMX, 160, 130, 35) })
	t.Run("bf16-amx, half a group", func(t *testing.T) { hardValues(t, kernels.ClassBF16AMX, 60, 70, 52) })
}

func hardValues(t *testing.T, class string, m, n, k int) {
	r := rand.New(rand.NewPCG(5, 5))
	any32 := func() float32 { return math.Float32frombits(r.Uint32()) }
	near := func(e, spread int) float32 {
		x := float32(math.Ldexp(1+float64(r.IntN(4)*r.IntN(64))/128, e-r.IntN(spread)))
		if r.IntN(2) == 0 {
			return -x
		}
		return x
	}
	kinds := []func() float32{any32, func() float32 { return near(-62, 16) }, func() float32 { return near(0, 26) },
		func() float32 {
			return []float32{0, 1, -1, 0x1p-126, 0x1p-127, -0x1p-63, 3e38, float32(math.Inf(-1))}[r.IntN(8)]
		}}
	want := plainBF16(t, class)
	for i, kind := range kinds {
		x, w := make([]float32, m*k), make([]float32, n*k)
		for _, b := range [][]float32{x, w} {
			for j := range b {
				b[j] = kind()
			}
		}
		right := linearOn(t, want, x, w, m, n, k)
		everyBF16(t, class, func(t *testing.T, d kernels.Device) {
			for j, g := range linearOn(t, d, x, w, m, n, k) {
				if v := right[j]; math.Float32bits(v) != math.Float32bits(g) && !(v != v && g != g) {
					t.Fatalf("kind %d, element %d: %x, plain Go has %x", i, j, g, v)
				}
			}
		})
	}
}

func TestPrecision(t *testing.T) {
	_, err := kernels.NewCPU(kernels.Config{Precision: "fp8"})
	require.ErrorContains(t, err, `"fp8"`)
	require.Positive(t, kernels.PeakGFLOPS(kernels.Config{Threads: 2, Precision: kernels.ClassBF16}, 1))
}
