package kernels

import (
	"math"
	"math/big"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

// exactFMA is a·b+c for finite values by exact arithmetic, rounded once.
func exactFMA(a, b, c float32) float32 {
	const enough = 1000 // bits: products and sums of float32 span less
	x := new(big.Float).SetPrec(enough).SetFloat64(float64(a))
	x.Mul(x, new(big.Float).SetPrec(enough).SetFloat64(float64(b)))
	x.Add(x, new(big.Float).SetPrec(enough).SetFloat64(float64(c)))
	r, _ := x.Float32()
	return r
}

func randomFinite(r *rand.Rand) float32 {
	for {
		if x := math.Float32frombits(r.Uint32()); x-x == 0 {
			return x
		}
	}
}

// fewBits is a float32 with a short significand around 2^e: sums of products of such numbers often lie halfway.
func fewBits(r *rand.Rand, e int) float32 {
	x := float64(1+r.IntN(15)) / 8
	if r.IntN(2) == 0 {
		x += math.Ldexp(float64(r.IntN(3)-1), -23+r.IntN(3))
	}
	if r.IntN(2) == 0 {
		x = -x
	}
	return float32(math.Ldexp(x, e))
}

func TestFMA(t *testing.T) {
	n := 200_000
	if testing.Short() {
		n = 20_000
	}
	r := rand.New(rand.NewPCG(1, 2))
	slow := 0
	check := func(a, b, c float32) {
		t.Helper()
		want, got := exactFMA(a, b, c), fma32(a, b, c)
		if want == 0 && got == 0 {
			return // big.Float knows no sign of an exact zero; the next test does
		}
		if math.Float32bits(want) != math.Float32bits(got) {
			t.Fatalf("fma(%x, %x, %x) is %x, want %x", a, b, c, got, want)
		}
		if twice := float32(math.FMA(float64(a), float64(b), float64(c))); twice != want {
			slow++
		}
	}
	for range n {
		check(randomFinite(r), randomFinite(r), randomFinite(r))
		// Exponents near each other, so that all three operands matter.
		e := r.IntN(60) - 30
		check(fewBits(r, e), fewBits(r, r.IntN(6)), fewBits(r, e+r.IntN(60)-30))
		// The product is half a unit of c's last place, give or take i²·2^-46 of itself: only rounding once decides.
		i := math.Ldexp(float64(1+r.IntN(7)), -23)
		c := math.Float32frombits(r.Uint32()&(1<<31|1<<23-1) | uint32(60+r.IntN(100))<<23)
		half := math.Ldexp(1, int(math.Float32bits(c)>>23&0xff)-127-24)
		if r.IntN(2) == 0 {
			half = -half
		}
		check(float32(1+i), float32(half*(1-i)), c)
		check(float32(1+i), float32(half*(1+i)), c)
		// Subnormal results.
		check(fewBits(r, -70), fewBits(r, -70-r.IntN(15)), fewBits(r, -126-r.IntN(24)))
		check(fewBits(r, -75), fewBits(r, -75), 0)
		// Near the largest value.
		check(fewBits(r, 63), fewBits(r, 64), fewBits(r, 127-r.IntN(30)))
	}
	require.Greater(t, slow, n/10, "too few cases where rounding twice goes wrong: the test is too easy")
}

func TestFMASpecialValues(t *testing.T) {
	inf, nan, zero := float32(math.Inf(1)), float32(math.NaN()), float32(0)
	minus := float32(math.Copysign(0, -1))
	for _, c := range []struct{ a, b, c, want float32 }{
		{1, minus, zero, zero}, {1, minus, minus, minus}, {1, zero, minus, zero}, {2, 3, -6, zero},
		{-0x1p-100, 0x1p-100, zero, minus}, {0x1p-100, 0x1p-100, minus, zero}, {0x1p-149, 0.5, zero, zero},
		{0x1p-149, 0x1.8p-1, zero, 0x1p-149}, {-0x1p-149, 0x1.8p-1, zero, -0x1p-149},
		{inf, 1, 1, inf}, {1, 1, -inf, -inf}, {inf, 1, -inf, nan}, {inf, 0, 1, nan}, {nan, 1, 1, nan}, {1, 1, nan, nan},
		{0x1.fffffep127, 2, -inf, -inf}, {0x1.fffffep127, 2, 0, inf}, {0x1.fffffep127, 2, -0x1.fffffep127, 0x1.fffffep127},
	} {
		got := fma32(c.a, c.b, c.c)
		if c.want != c.want {
			require.True(t, got != got, "%+v gives %v", c, got)
			continue
		}
		require.Equal(t, math.Float32bits(c.want), math.Float32bits(got), "%+v gives %v", c, got)
	}
}

// ulps is how far x is from the exact value, in units of float32's last place there.
func ulps(x float32, exact float64) float64 {
	near := float32(exact)
	if math.IsInf(float64(near), 0) || near == x {
		return 0
	}
	unit := float64(math.Nextafter32(near, float32(math.Inf(1)))) - float64(near)
	return math.Abs(float64(x)-exact) / unit
}

func TestFunctions(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	var exp, log, gelu float64
	for range 1_000_000 {
		x := float32(r.Float64()*195 - 105)
		exp = max(exp, ulps(exp32(x), math.Exp(float64(x))))
		x = math.Float32frombits(0x00800000 + r.Uint32N(0x7f000000))
		log = max(log, ulps(log32(x), math.Log(float64(x))))
		x = 1 + float32(r.NormFloat64())*1e-3
		log = max(log, ulps(log32(x), math.Log(float64(x))))
		x = float32(r.NormFloat64() * 2)
		u := math.Sqrt(2/math.Pi) * (float64(x) + 0.044715*math.Pow(float64(x), 3))
		gelu = max(gelu, math.Abs(float64(gelu32(x))-0.5*float64(x)*(1+math.Tanh(u))))
	}
	t.Logf("largest errors: exp %.2f ulp, log %.2f ulp, GELU %.1e", exp, log, gelu)
	require.Less(t, exp, 1.5)
	require.Less(t, log, 1.5)
	require.Less(t, gelu, 1e-6)

	inf, nan := float32(math.Inf(1)), float32(math.NaN())
	require.Equal(t, []float32{1, 0, inf, inf, 0}, []float32{exp32(0), exp32(-1000), exp32(1000), exp32(inf), exp32(-inf)})
	require.True(t, exp32(nan) != exp32(nan) && log32(nan) != log32(nan))
	require.Equal(t, []float32{0, inf}, []float32{log32(1), log32(inf)})
	require.Equal(t, float32(1e20), gelu32(1e20))
	require.Equal(t, float32(1), geluSlope32(1e20))
	require.Zero(t, geluSlope32(-1e20))
}

func TestFold(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	for range 1000 {
		var l, v lanes
		for i := range l {
			l[i] = float32(math.Ldexp(r.NormFloat64(), r.IntN(20)))
		}
		v = l
		pair := func(i int) float32 { return v[i] + v[i+8] }
		quad := func(i int) float32 { return pair(i) + pair(i+4) }
		want := (quad(0) + quad(2)) + (quad(1) + quad(3))
		require.Equal(t, want, l.fold(Lanes))
	}
	var l lanes
	for i := range 40 {
		l.add(i, float32(i))
	}
	require.Equal(t, float32(780), l.fold(40))
}

func TestAdamWFactors(t *testing.T) {
	a := AdamW{LR: 1, Beta1: 0.9, Beta2: 0.999, Step: 1000}
	f := a.Factors(0.5)
	require.InDelta(t, 1/(1-math.Pow(float64(float32(0.9)), 1000)), float64(f.C1), 1e-7)
	require.InDelta(t, 1/(1-math.Pow(float64(float32(0.999)), 1000)), float64(f.C2), 1e-7)
	a.Step = 1 << 40
	require.Equal(t, float32(1), a.Factors(1).C1)
}
