package kernels_test

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/farandole-ml/farandole/kernels"
)

var allTypes = []kernels.DType{
	kernels.Float32, kernels.Float64, kernels.BFloat16, kernels.Float16, kernels.Int32, kernels.Int64, kernels.Uint8,
}

var allOps = []kernels.RedOp{kernels.Sum, kernels.Prod, kernels.Min, kernels.Max}

// hardBits fills b with elements of type d: arbitrary bits, and often a corner of the type's values.
func hardBits(rng *rand.Rand, d kernels.DType, b []byte) {
	put := func(at []byte, u uint64) {
		var e [8]byte
		binary.NativeEndian.PutUint64(e[:], u)
		copy(at, e[:d.Size()]) // little-endian machines alone run the suite
	}
	// exponent and significand widths of the floating-point types
	widths := map[kernels.DType][2]int{kernels.Float32: {8, 23}, kernels.Float64: {11, 52}, kernels.BFloat16: {8, 7}, kernels.Float16: {5, 10}}
	for i := 0; i < len(b); i += d.Size() {
		u := rng.Uint64()
		if w, ok := widths[d]; ok {
			sign, fraction, exponents := rng.Uint64()&1<<(w[0]+w[1]), rng.Uint64()&(1<<w[1]-1), uint64(1)<<w[0]-1
			switch rng.IntN(8) {
			case 0: // zero, or infinity
				u = sign | rng.Uint64()&1*exponents<<w[1]
			case 1: // subnormal
				u = sign | fraction
			case 2: // NaN
				u = sign | exponents<<w[1] | fraction
			case 3, 4, 5: // about 1, with few bits: sums and products often lie halfway
				u = sign | (exponents/2+rng.Uint64N(4))<<w[1] | rng.Uint64N(8)<<(w[1]-3) | rng.Uint64N(2)
			case 6: // the largest
				u = sign | (exponents-1)<<w[1] | fraction
			}
		}
		put(b[i:], u)
	}
}

type order struct {
	name    string
	program []int16
}

// orders has the expressions over n sources that the code treats each in its own way, and some others.
func orders(rng *rand.Rand, n int) []order {
	var balanced func(a, b int) []int16
	balanced = func(a, b int) []int16 {
		if b-a == 1 {
			return []int16{int16(a)}
		}
		m := (a + b) / 2
		return append(append(balanced(a, m), balanced(m, b)...), kernels.Combine)
	}
	left, right := []int16{0}, []int16{0}
	for k := 1; k < n; k++ {
		left, right = append(left, int16(k), kernels.Combine), append(right, int16(k))
	}
	reversed := balanced(0, n)
	for i, k := range reversed {
		if k >= 0 {
			reversed[i] = int16(n-1) - k
		}
	}
	all := []order{{"nil", nil}, {"left", left}, {"balanced", balanced(0, n)}, {"reversed", reversed}}
	if n <= kernels.MaxDepth {
		for range n - 1 {
			right = append(right, kernels.Combine)
		}
		all = append(all, order{"right", right})
	}
	// Pushes and combinations by chance, and sources that come twice or never.
	var some []int16
	for waiting := 0; len(some) < 3*n || waiting != 1; {
		if waiting < 2 || waiting < kernels.MaxDepth && len(some) < 3*n && rng.IntN(2) == 0 {
			some = append(some, int16(rng.IntN(n)))
			waiting++
		} else {
			some = append(some, kernels.Combine)
			waiting--
		}
	}
	return append(all, order{"random", some})
}

// reductionCase is one set of arguments; arrays are copied from it for every instruction set.
type reductionCase struct {
	r       kernels.Reduction
	name    string
	srcs    [][]byte
	dsts    int
	inPlace int // the source that the first destination is, or -1
	shifts  []int
	stream  bool
}

// run gives the results of all destinations; the arrays end at a page that must not be touched if there are guards.
func (c *reductionCase) run(isa string, guards *guarded) [][]byte {
	bytes, size := len(c.srcs[0]), c.r.Type.Size()
	array := func(i int) []byte {
		shift := c.shifts[i%len(c.shifts)] * size
		if guards != nil {
			return guards.take(i, bytes)
		}
		return make([]byte, bytes+shift+64)[shift:][:bytes:bytes]
	}
	var srcs, dsts [][]byte
	for i, s := range c.srcs {
		srcs = append(srcs, array(i))
		copy(srcs[i], s)
	}
	for i := range c.dsts {
		if i == 0 && c.inPlace >= 0 {
			dsts = append(dsts, srcs[c.inPlace])
			continue
		}
		dsts = append(dsts, array(len(srcs)+i))
	}
	c.r.RunOn(isa, c.stream, dsts, srcs)
	var out [][]byte
	for _, d := range dsts {
		out = append(out, slices.Clone(d))
	}
	return out
}

// check compares every instruction set with plain Go.
func (c *reductionCase) check(t *testing.T, guards *guarded) {
	t.Helper()
	want := c.run("go", nil)
	for _, w := range want[1:] {
		require.Equal(t, want[0], w)
	}
	for _, isa := range isas() {
		for d, got := range c.run(isa, guards) {
			if slices.Equal(got, want[d]) {
				continue
			}
			size := c.r.Type.Size()
			for i := 0; i < len(got); i += size {
				if !slices.Equal(got[i:i+size], want[d][i:i+size]) {
					var in []string
					for _, s := range c.srcs {
						in = append(in, fmt.Sprintf("%x", s[i:i+size]))
					}
					t.Fatalf("%s: %v of %v, %s %v, divisor %d, round %t, stream %t, in place %d, %d bytes: destination %d, element %d of %v is %x, must be %x",
						isa, c.r.Op, c.r.Type, c.name, c.r.Order, c.r.Divisor, c.r.Round, c.stream, c.inPlace, len(got), d, i/size, in, got[i:i+size], want[d][i:i+size])
				}
			}
		}
	}
}

// newReductionCase chooses everything but type, operation and number of sources by chance.
func newReductionCase(rng *rand.Rand, d kernels.DType, op kernels.RedOp, sources, elements int) []*reductionCase {
	srcs := make([][]byte, sources)
	for i := range srcs {
		srcs[i] = make([]byte, elements*d.Size())
		hardBits(rng, d, srcs[i])
	}
	var cases []*reductionCase
	for _, o := range orders(rng, sources) {
		c := &reductionCase{r: kernels.Reduction{Type: d, Op: op, Order: o.program}, name: o.name, srcs: srcs, dsts: 1 + rng.IntN(3), inPlace: -1}
		if rng.IntN(3) == 0 {
			c.inPlace = rng.IntN(sources)
		}
		if rng.IntN(3) == 0 {
			c.r.Divisor = 1 + rng.IntN(300)
		}
		c.r.Round = d == kernels.Float32 && rng.IntN(3) == 0
		c.stream = rng.IntN(2) == 0
		if c.stream && rng.IntN(2) == 0 {
			c.shifts = []int{rng.IntN(64)} // all alike
		} else {
			c.shifts = []int{rng.IntN(64), rng.IntN(64), rng.IntN(64), 0, rng.IntN(64)}
		}
		cases = append(cases, c)
	}
	return cases
}

func TestReductionEqualBits(t *testing.T) {
	for _, d := range allTypes {
		for _, op := range allOps {
			t.Run(fmt.Sprintf("%v/%v", d, op), func(t *testing.T) {
				t.Parallel()
				rng := rand.New(rand.NewPCG(uint64(d), uint64(op)))
				for _, sources := range []int{1, 2, 3, 4, 5, 8, 9, 33} {
					for _, elements := range []int{1, rng.IntN(70), 1000 + rng.IntN(3000)} {
						for _, c := range newReductionCase(rng, d, op, sources, elements) {
							c.check(t, nil)
						}
					}
				}
			})
		}
	}
}

// TestReduction2EqualBits takes the short way.
func TestReduction2EqualBits(t *testing.T) {
	rng := rand.New(rand.NewPCG(2, 2))
	for _, d := range allTypes {
		for _, op := range allOps {
			for n := range 70 {
				a, b := make([]byte, n*d.Size()), make([]byte, n*d.Size())
				hardBits(rng, d, a)
				hardBits(rng, d, b)
				want := make([]byte, len(a))
				(&kernels.Reduction{Type: d, Op: op}).RunOn("go", false, [][]byte{want}, [][]byte{a, b})
				for _, isa := range isas() {
					got := make([]byte, len(a))
					kernels.Reduce2On(isa, n%2 == 0, d, op, got, a, b)
					require.Equal(t, want, got, "%s: %v of %v", isa, op, d)
					copy(got, a)
					kernels.Reduce2On(isa, n%2 == 0, d, op, got, got, b)
					require.Equal(t, want, got, "%s: %v of %v in place", isa, op, d)
				}
			}
		}
	}
}

// guarded has memory whose arrays end where a page begins that must not be touched.
type guarded struct {
	pages, size int
	memory      []byte
}

func newGuarded(t *testing.T, arrays, bytes int) *guarded {
	page := unix.Getpagesize()
	g := &guarded{size: (bytes+page-1)/page*page + page}
	g.pages = page
	memory, err := unix.Mmap(-1, 0, arrays*g.size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, unix.Munmap(memory)) })
	g.memory = memory
	for i := range arrays {
		require.NoError(t, unix.Mprotect(memory[(i+1)*g.size-page:(i+1)*g.size], unix.PROT_NONE))
	}
	return g
}

func (g *guarded) take(i, bytes int) []byte {
	end := (i+1)*g.size - g.pages
	return g.memory[end-bytes : end : end]
}

// behind is an array that begins where such a page ends. i is not 0.
func (g *guarded) behind(i, bytes int) []byte {
	return g.memory[i*g.size : i*g.size+bytes : i*g.size+bytes]
}

// TestReductionStaysInside would crash.
func TestReductionStaysInside(t *testing.T) {
	const most = 3000
	guards := newGuarded(t, 12, 8*most)
	rng := rand.New(rand.NewPCG(3, 3))
	for _, d := range allTypes {
		for _, elements := range []int{1, 7, 15, 16, 17, 31, 500 + rng.IntN(most-500)} {
			for _, sources := range []int{1, 2, 3, 4, 8} {
				op := allOps[rng.IntN(len(allOps))]
				if rng.IntN(2) == 0 {
					op = kernels.Sum
				}
				for _, c := range newReductionCase(rng, d, op, sources, elements) {
					c.check(t, guards)
				}
			}
		}
	}
}

func FuzzReduction(f *testing.F) {
	f.Add(uint8(0), uint8(0), uint8(2), uint16(100), uint64(1))
	f.Add(uint8(3), uint8(2), uint8(9), uint16(3000), uint64(2))
	f.Fuzz(func(t *testing.T, d, op, sources uint8, elements uint16, seed uint64) {
		rng := rand.New(rand.NewPCG(seed, 4))
		for _, c := range newReductionCase(rng, allTypes[int(d)%len(allTypes)], allOps[op%4], 1+int(sources)%40, int(elements)%5000) {
			c.check(t, nil)
		}
	})
}

// TestBF16EqualBits encodes and decodes hard values.
func TestBF16EqualBits(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 5))
	for n := range 100 {
		b := make([]byte, 4*n)
		hardBits(rng, kernels.Float32, b)
		x := make([]float32, n)
		for i := range x {
			x[i] = math.Float32frombits(binary.NativeEndian.Uint32(b[4*i:]))
		}
		want, back := make([]byte, 2*n), make([]float32, n)
		kernels.EncodeBF16On("go", want, x)
		kernels.DecodeBF16On("go", back, want)
		for _, isa := range isas() {
			got, values := make([]byte, 2*n), make([]float32, n)
			kernels.EncodeBF16On(isa, got, x)
			require.Equal(t, want, got, isa)
			kernels.DecodeBF16On(isa, values, want)
			require.Equal(t, raw(back...), raw(values...), isa)
		}
	}
}
