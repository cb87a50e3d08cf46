package collective_test

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/farandole-ml/farandole/collective"
	"github.com/farandole-ml/farandole/collective/transport/inproc"
)

// compressed is a group whose ranks are goroutines, with a compressor each.
type compressed struct {
	groups      []*collective.Group
	compressors []*collective.Compressor
}

func newCompressed(t testing.TB, world int, cfg collective.CompressorConfig) *compressed {
	c := &compressed{}
	for _, tr := range inproc.New(world) {
		g := collective.New(tr)
		t.Cleanup(func() { require.NoError(t, g.Close()) })
		compressor, err := collective.NewCompressor(cfg)
		require.NoError(t, err)
		c.groups, c.compressors = append(c.groups, g), append(c.compressors, compressor)
	}
	return c
}

// reduce gives every rank's result and error.
func (c *compressed) reduce(op collective.RedOp, in [][]float32) ([][]float32, []error) {
	out, errs := make([][]float32, len(in)), make([]error, len(in))
	var wg sync.WaitGroup
	for r := range in {
		out[r] = make([]float32, len(in[r]))
		wg.Go(func() {
			errs[r] = c.compressors[r].AllReduce(context.Background(), c.groups[r], out[r], in[r], op)
		})
	}
	wg.Wait()
	return out, errs
}

// one is reduce where all ranks must have equal bits.
func (c *compressed) one(t testing.TB, op collective.RedOp, in [][]float32) []float32 {
	t.Helper()
	out, errs := c.reduce(op, in)
	for r := range out {
		require.NoError(t, errs[r])
		require.True(t, slices.Equal(float32Bytes(out[0]), float32Bytes(out[r])), "rank %d has other bits than rank 0", r)
	}
	return out[0]
}

func gradients(rng *rand.Rand, world, n int) [][]float32 {
	in := make([][]float32, world)
	for r := range in {
		in[r] = make([]float32, n)
		for i := range in[r] {
			in[r][i] = float32(rng.NormFloat64() * math.Exp(rng.NormFloat64()))
		}
	}
	return in
}

var everyCompression = []collective.Compression{collective.CompressBF16, collective.CompressInt8}

func TestCompressedEqualBits(t *testing.T) {
	for _, kind := range everyCompression {
		for world := 1; world <= 5; world++ {
			for _, n := range []int{0, 1, 255, 256, 257, 5000} {
				t.Run(fmt.Sprintf("%v/%d ranks/%d", kind, world, n), func(t *testing.T) {
					rng := rand.New(rand.NewPCG(uint64(world), uint64(n)))
					cfg := collective.CompressorConfig{Compression: kind, Elements: n}
					a, b := newCompressed(t, world, cfg), newCompressed(t, world, cfg)
					for step := range 4 {
						op := []collective.RedOp{collective.Sum, collective.Avg}[step%2]
						in := gradients(rng, world, n)
						sum := a.one(t, op, in)
						require.True(t, slices.Equal(float32Bytes(sum), float32Bytes(b.one(t, op, in))), "another run has other bits")
						for r := range in {
							require.Equal(t, a.compressors[r].Residual(), b.compressors[r].Residual())
						}
					}
				})
			}
		}
	}
}

// TestCompressedError bounds the loss of one operation by the sizes of the values that were rounded.
func TestCompressedError(t *testing.T) {
	const world, n = 4, 3000
	relative := map[collective.Compression]float64{collective.CompressBF16: 1.0 / 256, collective.CompressInt8: 0.5 / 126}
	for kind, most := range relative {
		c := newCompressed(t, world, collective.CompressorConfig{Compression: kind, Elements: n})
		in := gradients(rand.New(rand.NewPCG(1, 1)), world, n)
		got := c.one(t, collective.Avg, in)
		// The largest of a block of any rank bounds every rounding in that block, that of the sum too.
		for i, x := range got {
			sum, bound := 0.0, 0.0
			for r := range in {
				sum += float64(in[r][i])
				largest := 0.0
				for _, y := range in[r][i/256*256 : min(i/256*256+256, n)] {
					largest = max(largest, math.Abs(float64(y)))
				}
				bound += 2 * largest * most * 1.01
			}
			require.InDelta(t, sum/world, float64(x), bound/world, "%v element %d", kind, i)
		}
	}
}

// TestErrorFeedback: what all operations delivered together is what they were given but for the last residuals; without feedback the
// same gradient loses the same every time.
func TestErrorFeedback(t *testing.T) {
	const world, n, steps = 3, 700, 400
	for _, kind := range everyCompression {
		errorOf := func(forget bool) float64 {
			c := newCompressed(t, world, collective.CompressorConfig{Compression: kind, Elements: n, Forget: forget})
			in := gradients(rand.New(rand.NewPCG(2, 2)), world, n)
			total := make([]float64, n)
			for range steps {
				for i, x := range c.one(t, collective.Sum, in) {
					total[i] += float64(x)
				}
			}
			worst := 0.0
			for i := range total {
				truth := 0.0
				for r := range in {
					truth += float64(in[r][i])
				}
				missing := truth*steps - total[i]
				if !forget {
					for r := range in {
						missing -= float64(c.compressors[r].Residual()[i])
					}
					// What is left are the roundings of float32 additions.
					require.InDelta(t, 0, missing, 1e-2, "%v: element %d is neither delivered nor in a residual", kind, i)
				}
				worst = max(worst, math.Abs(truth-total[i]/steps))
			}
			return worst
		}
		with, without := errorOf(false), errorOf(true)
		require.Less(t, with, without/50, "%v", kind)
		t.Logf("%v: the average of %d sums is wrong by up to %.2g with feedback, %.2g without", kind, steps, with, without)
	}
}

func TestCompressedNotFinite(t *testing.T) {
	const world, n = 3, 1000
	inf := float32(math.Inf(1))
	for _, kind := range everyCompression {
		c := newCompressed(t, world, collective.CompressorConfig{Compression: kind, Elements: n})
		in := gradients(rand.New(rand.NewPCG(3, 3)), world, n)
		in[0][10], in[1][500], in[2][999] = inf, -inf, float32(math.NaN())
		in[0][600], in[2][600] = inf, -inf
		sum := c.one(t, collective.Sum, in)
		require.Equal(t, inf, sum[10])
		require.Equal(t, -inf, sum[500])
		require.True(t, sum[999] != sum[999] && sum[600] != sum[600])
		for i, x := range sum {
			require.True(t, x-x == 0 || slices.Contains([]int{10, 500, 600, 999}, i), "element %d is %g", i, x)
		}
		// The next operation is clean.
		for r := range in {
			for _, i := range []int{10, 500, 600, 999} {
				in[r][i] = 1
			}
		}
		for i, x := range c.one(t, collective.Sum, in) {
			require.True(t, x-x == 0, "element %d is %g", i, x)
		}
	}
}

func TestCompressorState(t *testing.T) {
	const world, n = 2, 600
	cfg := collective.CompressorConfig{Compression: collective.CompressInt8, Elements: n}
	a, b := newCompressed(t, world, cfg), newCompressed(t, world, cfg)
	rng := rand.New(rand.NewPCG(4, 4))
	first, second := gradients(rng, world, n), gradients(rng, world, n)
	a.one(t, collective.Sum, first)
	for r, c := range a.compressors { // a checkpoint
		require.NoError(t, b.compressors[r].SetResidual(c.Residual()))
		require.Error(t, c.SetResidual(nil))
	}
	want := a.one(t, collective.Sum, second)
	require.Equal(t, want, b.one(t, collective.Sum, second))
	for _, c := range a.compressors { // the step is done again
		c.Undo()
		c.Undo()
	}
	require.Equal(t, want, a.one(t, collective.Sum, second))
	require.NotEqual(t, want, a.one(t, collective.Sum, second), "the residual has changed")

	// A group that fails leaves the residual alone.
	for r, c := range a.compressors {
		before := slices.Clone(c.Residual())
		a.groups[r].Abort(nil)
		require.ErrorIs(t, c.AllReduce(t.Context(), a.groups[r], first[r], first[r], collective.Sum), collective.ErrClosed)
		require.Equal(t, before, c.Residual())
		c.Undo()
		require.Equal(t, before, c.Residual())
	}
	// The compressors go on in another group, of another size.
	alone := collective.New(inproc.New(1)[0])
	defer alone.Close()
	require.NoError(t, a.compressors[0].AllReduce(t.Context(), alone, first[0], first[0], collective.Avg))
}

func TestCompressorMisuse(t *testing.T) {
	_, err := collective.NewCompressor(collective.CompressorConfig{Compression: 2})
	require.ErrorIs(t, err, collective.ErrMisuse)
	_, err = collective.ParseCompression("zip")
	require.ErrorContains(t, err, "bf16 or int8")
	for _, kind := range everyCompression {
		parsed, err := collective.ParseCompression(kind.String())
		require.NoError(t, err)
		require.Equal(t, kind, parsed)
	}
	cases := map[string]func(c *compressed, in [][]float32) []error{
		"min": func(c *compressed, in [][]float32) []error {
			_, errs := c.reduce(collective.Min, in)
			return errs
		},
		"length": func(c *compressed, in [][]float32) []error {
			_, errs := c.reduce(collective.Sum, [][]float32{in[0][1:], in[1]})
			return errs
		},
		"sum and average": func(c *compressed, in [][]float32) []error {
			errs := make([]error, 2)
			var wg sync.WaitGroup
			for r, op := range []collective.RedOp{collective.Sum, collective.Avg} {
				wg.Go(func() { errs[r] = c.compressors[r].AllReduce(context.Background(), c.groups[r], in[r], in[r], op) })
			}
			wg.Wait()
			return errs
		},
		"two lengths": func(c *compressed, in [][]float32) []error {
			c.compressors[1], _ = collective.NewCompressor(collective.CompressorConfig{Elements: 99})
			in[1] = in[1][1:]
			_, errs := c.reduce(collective.Sum, in)
			return errs
		},
	}
	for name, f := range cases {
		t.Run(name, func(t *testing.T) {
			c := newCompressed(t, 2, collective.CompressorConfig{Elements: 100})
			for r, err := range f(c, [][]float32{make([]float32, 100), make([]float32, 100)}) {
				require.Error(t, err, "rank %d", r)
			}
		})
	}
	c := newCompressed(t, 2, collective.CompressorConfig{Elements: 100})
	for r, err := range cases["sum and average"](c, [][]float32{make([]float32, 100), make([]float32, 100)}) {
		var peer *collective.PeerError
		require.ErrorAs(t, err, &peer)
		require.Equal(t, 1-r, peer.Rank)
		require.ErrorContains(t, err, "avg in bf16 of 100 elements")
		require.ErrorContains(t, err, "sum in bf16 of 100 elements")
	}
}

func TestCompressedDoesNotAllocate(t *testing.T) {
	g := collective.New(inproc.New(1)[0])
	defer g.Close()
	c, err := collective.NewCompressor(collective.CompressorConfig{Compression: collective.CompressInt8, Elements: 1000})
	require.NoError(t, err)
	x := make([]float32, 1000)
	require.Zero(t, testing.AllocsPerRun(20, func() { err = c.AllReduce(context.Background(), g, x, x, collective.Avg) }))
	require.NoError(t, err)
}
