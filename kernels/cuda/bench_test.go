//go:build cuda

package cuda

import (
	"cmp"
	"flag"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"gorgonia.org/cu"

	"github.com/farandole-ml/farandole/kernels"
)

// The shapes of the benchmarks are those of GPT-2 124M with a batch of 32 rows of 1024 tokens.
type benchShape struct {
	batch, seq, heads, headSize, vocab int
	head                               int // positions that go through the output head at once
	params                             int // of the model, and so of a gradient
	copied                             int // values of the copies that bandwidth is measured by, several times a GPU's cache
}

var (
	gpt2Shape = benchShape{batch: 32, seq: 1024, heads: 12, headSize: 64, vocab: 50257, head: 1024, params: 124439808, copied: 1 << 28}
	// tinyShape shows that the benchmarks run; its figures mean nothing.
	tinyShape = benchShape{batch: 2, seq: 24, heads: 3, headSize: 16, vocab: 300, head: 24, params: 10000, copied: 1 << 12}
	tiny      = flag.Bool("gpu.tiny", false, "benchmarks use shapes that are good for nothing but to see them run")
	precision = flag.String("gpu.precision", kernels.ClassF32, "numerics class of the products that are measured")
	products  = flag.String("gpu.products", kernels.ProductsOwn, "what multiplies, own or cublaslt")
)

func (s benchShape) rows() int  { return s.batch * s.seq }
func (s benchShape) width() int { return s.heads * s.headSize }

// Limits of a measurement.
const (
	// sampleTime is how long the launches of one sample take: long enough that what events cost does not count.
	sampleTime = 10 * time.Millisecond
	// maxLaunches is the most launches of a sample.
	maxLaunches = 2000
)

// gpuBench measures operations on one device.
type gpuBench struct {
	testing.TB
	*device
	benchShape
	from, to cu.Event
}

func newGPUBench(b *testing.B) *gpuBench {
	b.Helper()
	g := &gpuBench{TB: b, device: opened(b, kernels.Config{Precision: *precision, Products: *products}), benchShape: gpt2Shape}
	if *tiny {
		g.benchShape = tinyShape
	}
	require.NoError(b, g.do(func() (err error) {
		if g.from, err = cu.MakeEvent(cu.DefaultEvent); err == nil {
			g.to, err = cu.MakeEvent(cu.DefaultEvent)
		}
		return err
	}))
	b.Cleanup(func() {
		require.NoError(b, g.do(func() error {
			return cmp.Or(cu.DestroyEvent(&g.from), cu.DestroyEvent(&g.to))
		}))
	})
	return g
}

// noise allocates a buffer of values around zero: GPUs compute on zeros faster than on anything else.
func (g *gpuBench) noise(n int) kernels.Buffer {
	x, err := g.Alloc(n)
	require.NoError(g, err)
	const period = 1<<16 + 1
	r := rand.New(rand.NewPCG(1, uint64(n)))
	part := make([]float32, min(n, period))
	for i := range part {
		part[i] = r.Float32() - 0.5
	}
	g.Upload(x.Slice(0, len(part)), part)
	for at := len(part); at < n; { // doubles what is there
		k := min(at, n-at)
		g.Copy(x.Slice(at, k), x.Slice(0, k))
		at += k
	}
	return x
}

func (g *gpuBench) ids(n, below int) kernels.Ints {
	x, err := g.AllocInts(n)
	require.NoError(g, err)
	r := rand.New(rand.NewPCG(2, uint64(n)))
	values := make([]int32, n)
	for i := range values {
		values[i] = r.Int32N(int32(below))
	}
	g.UploadInts(x, values)
	return x
}

// between is how long the GPU takes for n calls. Events are the GPU's own clock at both ends of its stream: what the host needs
// to enqueue the first call and to notice the end is not in it, and what it needs for the rest is only if the GPU waits for it.
func (g *gpuBench) between(n int, call func()) time.Duration {
	require.NoError(g, g.Sync())
	require.NoError(g, g.do(func() error { return g.from.Record(g.stream) }))
	for range n {
		call()
	}
	g.flush()
	var ms float64
	require.NoError(g, g.do(func() (err error) {
		if err = cmp.Or(g.to.Record(g.stream), g.to.Synchronize()); err == nil {
			ms, err = g.from.Elapsed(g.to)
		}
		return err
	}))
	require.NoError(g, g.Sync())
	return time.Duration(ms * float64(time.Millisecond))
}

// measure reports the median over samples of a call's microseconds on the GPU, and amount divided by that time in unit, which
// has a G (1e9) or a T (1e12) before it; and that rate's share of its peer.
func (g *gpuBench) measure(b *testing.B, op operation) {
	b.Helper()
	n := g.launches(op.call)
	var samples []float64
	for b.Loop() {
		samples = append(samples, float64(g.between(n, op.call))/float64(n))
	}
	if rate := report(b, op.amount, op.unit, samples); op.peer > 0 {
		b.ReportMetric(rate/op.peer, "of-product")
	}
}

// launches is how many of a call make a sample.
func (g *gpuBench) launches(call func()) int {
	call() // what only the first call does: scratch memory, the kernel's code on its way to the GPU
	once := g.between(1, call)
	if *tiny || once >= sampleTime {
		return 1
	}
	return int(min(maxLaunches, sampleTime/max(once, time.Microsecond)))
}

// productRate is the rate of the device's products, in TFLOP/s: the median of a few samples of the layer's largest one forward, whose
// factors are rounded as in every product.
func (g *gpuBench) productRate() float64 {
	m, n, k := g.rows(), 4*g.width(), g.width()
	x, w, y := g.noise(m*k), g.noise(n*k), g.noise(m*n)
	call := func() { g.Linear(y, x, w, nil, m, n, k) }
	count := g.launches(call)
	var samples []float64
	for range 5 {
		samples = append(samples, float64(g.between(count, call))/float64(count))
	}
	slices.Sort(samples)
	return 2 * float64(m) * float64(n) * float64(k) / max(1, samples[len(samples)/2]) / 1e3
}

// report is for samples in nanoseconds. It gives the rate in unit, 0 without one.
func report(b *testing.B, amount float64, unit string, samples []float64) (rate float64) {
	slices.Sort(samples)
	median := samples[len(samples)/2]
	b.ReportMetric(0, "ns/op") // of the samples: of no use
	b.ReportMetric(median/1e3, "us")
	if unit == "" || median == 0 {
		return 0
	}
	amount /= median // G per second
	if strings.HasPrefix(unit, "T") {
		amount /= 1e3
	}
	b.ReportMetric(amount, unit)
	return amount
}

// operation is a call whose buffers are allocated by the function that makes it, and dropped after it was measured.
type operation struct {
	name   string
	amount float64 // bytes, or floating-point operations
	unit   string
	peer   float64 // of-product is the share of this in the same unit; 0 for none
	call   func()
}

// measureAll runs each as a benchmark of its own. They share a device: opening one takes longer than most of them.
func measureAll(b *testing.B, names []string, make func(g *gpuBench, name string) operation) {
	shared := newGPUBench(b)
	for _, name := range names {
		b.Run(name, func(b *testing.B) {
			g := *shared
			g.TB = b
			op := make(&g, name)
			g.measure(b, op)
		})
	}
}

// BenchmarkCopy is the bandwidth that others are compared with: bytes read and bytes written.
func BenchmarkCopy(b *testing.B) {
	measureAll(b, []string{"device"}, func(g *gpuBench, name string) operation {
		x, y := g.noise(g.copied), g.noise(g.copied)
		return operation{name, 8 * float64(g.copied), "GB/s", 0, func() { g.Copy(y, x) }}
	})
}

// BenchmarkMemory has the operations that memory bounds. Their bytes are the fewest that must move: each input read once, each
// output written once, what is accumulated both.
func BenchmarkMemory(b *testing.B) {
	measureAll(b, []string{
		"Zero", "Add", "Scale", "GELU", "GELUBackward", "LayerNorm", "ResidualLayerNorm", "LayerNormBackward", "Embed", "EmbedBackward",
		"CrossEntropy", "BiasGradient", "SquareSum", "AdamW", "TreeAddition", "TreeAdditionRounded",
	}, func(g *gpuBench, name string) operation { return g.memoryBound(name) })
}

func (g *gpuBench) memoryBound(name string) operation {
	rows, c := g.rows(), g.width()
	op := func(values int, call func()) operation { return operation{name, 4 * float64(values), "GB/s", 0, call} }
	n := rows * 4 * c // the largest activation
	switch name {
	case "Zero":
		x := g.noise(n)
		return op(n, func() { g.Zero(x) })
	case "Add":
		x, y, z := g.noise(n), g.noise(n), g.noise(n)
		return op(3*n, func() { g.device.Add(z, x, y) })
	case "Scale":
		x := g.noise(n)
		return op(2*n, func() { g.Scale(x, -1) })
	case "GELU":
		x, y := g.noise(n), g.noise(n)
		return op(2*n, func() { g.GELU(y, x) })
	case "GELUBackward":
		x, y, z := g.noise(n), g.noise(n), g.noise(n)
		return op(3*n, func() { g.GELUBackward(z, nil, y, x) })
	case "LayerNorm":
		x, y, mean, rstd, gamma, beta := g.noise(rows*c), g.noise(rows*c), g.noise(rows), g.noise(rows), g.noise(c), g.noise(c)
		return op(2*rows*c, func() { g.LayerNorm(y, mean, rstd, x, gamma, beta, rows, c) })
	case "ResidualLayerNorm":
		x, y, sum, out := g.noise(rows*c), g.noise(rows*c), g.noise(rows*c), g.noise(rows*c)
		mean, rstd, gamma, beta := g.noise(rows), g.noise(rows), g.noise(c), g.noise(c)
		return op(4*rows*c, func() { g.ResidualLayerNorm(sum, out, mean, rstd, x, y, gamma, beta, rows, c) })
	case "LayerNormBackward":
		x, dx, dout, mean, rstd := g.noise(rows*c), g.noise(rows*c), g.noise(rows*c), g.noise(rows), g.noise(rows)
		gamma, dgamma, dbeta := g.noise(c), g.noise(c), g.noise(c)
		return op(4*rows*c, func() { g.LayerNormBackward(dx, dgamma, dbeta, dout, x, gamma, mean, rstd, rows, c) })
	case "Embed":
		x, wte, wpe, ids := g.noise(rows*c), g.noise(g.vocab*c), g.noise(g.seq*c), g.ids(rows, g.vocab)
		return op(2*rows*c+g.seq*c, func() { g.device.Embed(x, wte, wpe, ids, g.batch, g.seq, c) })
	case "EmbedBackward":
		x, wte, wpe, ids := g.noise(rows*c), g.noise(g.vocab*c), g.noise(g.seq*c), g.ids(rows, g.vocab)
		return op(3*rows*c+2*g.seq*c, func() { g.EmbedBackward(wte, wpe, x, ids, g.batch, g.seq, c) })
	case "CrossEntropy":
		x, losses, ids := g.noise(g.head*g.vocab), g.noise(g.head), g.ids(g.head, g.vocab)
		return op(2*g.head*g.vocab, func() { g.CrossEntropy(losses, x, ids, g.head, g.vocab, 1) })
	case "BiasGradient":
		x, bias := g.noise(n), g.noise(4*c)
		return op(n, func() { g.columnSums("BiasGradient", address(bias), address(x), rows, 4*c) })
	case "SquareSum":
		x, out := g.noise(g.params), g.noise(1)
		return op(g.params, func() { g.SquareSum(out, x) })
	case "AdamW":
		p, grad, m, v := g.noise(g.params), g.noise(g.params), g.noise(g.params), g.noise(g.params)
		g.Zero(v)
		a := kernels.AdamW{LR: 1e-9, Beta1: 0.9, Beta2: 0.95, Eps: 1e-8, Decay: 0.1, Step: 1}
		return op(7*g.params, func() { g.AdamW(p, grad, m, v, 1, a) })
	case "TreeAdditionRounded":
		x, y := g.noise(g.params), g.noise(g.params)
		return op(3*g.params, func() { g.AddRounded(x, x, y) })
	default: // TreeAddition: a node of the tree adds the gradients of two shards
		x, y := g.noise(g.params), g.noise(g.params)
		return op(3*g.params, func() { g.device.Add(x, x, y) })
	}
}

// BenchmarkProduct has the products of a layer, and of a part of the output head, in the three layouts.
func BenchmarkProduct(b *testing.B) {
	var names []string
	for _, layer := range []string{"qkv", "proj", "fc", "out", "head"} {
		for _, layout := range []string{"forward", "input", "weight"} {
			names = append(names, layer+"/"+layout)
		}
	}
	measureAll(b, names, func(g *gpuBench, name string) operation {
		layer, layout, _ := strings.Cut(name, "/")
		c := g.width()
		s := map[string][3]int{
			"qkv": {g.rows(), 3 * c, c}, "proj": {g.rows(), c, c}, "fc": {g.rows(), 4 * c, c}, "out": {g.rows(), c, 4 * c}, "head": {g.head, g.vocab, c},
		}[layer]
		m, n, k := s[0], s[1], s[2]
		x, w, y := g.noise(m*k), g.noise(n*k), g.noise(m*n)
		call := map[string]func(){
			"forward": func() { g.Linear(y, x, w, nil, m, n, k) },
			"input":   func() { g.LinearBackwardInput(x, y, w, m, n, k) },
			"weight":  func() { g.LinearBackward(nil, w, nil, y, x, w, m, n, k) },
		}[layout]
		return operation{name, 2 * float64(m) * float64(n) * float64(k), "TFLOP/s", 0, call}
	})
}

// BenchmarkAttention counts what the causal mask leaves: half of each product, of two forward and five backward, whatever is computed
// again. of-product is that rate's share of productRate in the same class.
func BenchmarkAttention(b *testing.B) {
	product := 0.0
	measureAll(b, []string{"forward", "backward"}, func(g *gpuBench, name string) operation {
		if product == 0 {
			product = g.productRate()
		}
		n := g.rows() * g.width()
		qkv, dqkv, out := g.noise(3*n), g.noise(3*n), g.noise(n)
		flops := 2 * float64(g.rows()) * float64(g.seq) * float64(g.width())
		if name == "forward" {
			return operation{name, flops, "TFLOP/s", product, func() { g.Attention(out, qkv, g.batch, g.seq, g.heads, g.headSize) }}
		}
		return operation{name, 2.5 * flops, "TFLOP/s", product, func() { g.AttentionBackward(dqkv, out, qkv, g.batch, g.seq, g.heads, g.headSize) }}
	})
}

// BenchmarkLaunch is what one launch costs of the smallest kernel: on the GPU's stream, and of the host's time.
func BenchmarkLaunch(b *testing.B) {
	measureAll(b, []string{"stream"}, func(g *gpuBench, name string) operation {
		x := g.noise(1)
		return operation{name, 0, "", 0, func() { g.Scale(x, 1) }}
	})
	b.Run("host", func(b *testing.B) {
		g := newGPUBench(b)
		x := g.noise(1)
		n := 512 // fewer than a stream takes before it makes the host wait
		if *tiny {
			n = 1
		}
		var samples []float64
		for b.Loop() {
			require.NoError(b, g.Sync())
			began := time.Now()
			for range n {
				g.Scale(x, 1)
			}
			g.flush()
			samples = append(samples, float64(time.Since(began).Nanoseconds())/float64(n))
		}
		report(b, 0, "", samples)
	})
}

// BenchmarkTransfer copies from and to registered memory, by the host's clock: each copy ends in a wait.
func BenchmarkTransfer(b *testing.B) {
	for _, name := range []string{"upload", "download"} {
		b.Run(name, func(b *testing.B) {
			g := newGPUBench(b)
			n := g.copied / 4
			x, host := g.noise(n), g.AllocHost(n)
			require.True(b, g.registered(host), "the driver locks the memory")
			require.NoError(b, g.Download(host, x))
			var samples []float64
			for b.Loop() {
				began := time.Now()
				if name == "upload" {
					g.Upload(x, host)
					require.NoError(b, g.Sync())
				} else {
					require.NoError(b, g.Download(host, x))
				}
				samples = append(samples, float64(time.Since(began).Nanoseconds()))
			}
			report(b, 4*float64(n), "GB/s", samples)
		})
	}
}
