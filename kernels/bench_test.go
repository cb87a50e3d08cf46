package kernels_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/farandole-ml/farandole/kernels"
)

// benchmark runs one operation on every instruction set of this machine but plain Go, with the given threads.
// Each element of lengths is a buffer; flops is the operation's floating-point operations, or 0 where bytes/s matter.
func benchmark(b *testing.B, name string, flops float64, bytes int64, lengths []int, op func(d kernels.Device, x []kernels.Buffer)) {
	for _, isa := range kernels.ISAs() {
		if isa == "go" || isa == "portable" {
			continue
		}
		for _, threads := range []int{1, 2} {
			b.Run(fmt.Sprintf("%s/%s/threads=%d", name, isa, threads), func(b *testing.B) {
				d, err := kernels.NewCPU(kernels.Config{ISA: isa, Threads: threads})
				require.NoError(b, err)
				defer d.Close()
				x := make([]kernels.Buffer, len(lengths))
				for i, n := range lengths {
					x[i], err = d.Alloc(n)
					require.NoError(b, err)
					values := make([]float32, n)
					for j := range values {
						values[j] = float32((j*7919)%2003)/1001 - 1
					}
					d.Upload(x[i], values)
				}
				b.ReportAllocs()
				if bytes > 0 {
					b.SetBytes(bytes)
				}
				for b.Loop() {
					op(d, x)
				}
				if flops > 0 {
					b.ReportMetric(flops*float64(b.N)/float64(b.Elapsed().Nanoseconds()), "GF/s")
				}
			})
		}
	}
}

func BenchmarkLinear(b *testing.B) {
	for _, s := range [][3]int{{256, 2304, 768}, {64, 128, 128}, {256, 384, 128}, {256, 512, 128}, {512, 768, 256}, {1024, 512, 512}, {1, 768, 768}} {
		m, n, k := s[0], s[1], s[2]
		benchmark(b, fmt.Sprintf("%dx%dx%d", m, n, k), 2*float64(m*n*k), 0, []int{m * n, m * k, n * k, n},
			func(d kernels.Device, x []kernels.Buffer) { d.Linear(x[0], x[1], x[2], x[3], m, n, k) })
	}
}

func BenchmarkLinearBackward(b *testing.B) {
	for _, s := range [][3]int{{256, 2304, 768}, {64, 128, 128}, {256, 512, 128}} {
		m, n, k := s[0], s[1], s[2]
		benchmark(b, fmt.Sprintf("%dx%dx%d", m, n, k), 4*float64(m*n*k), 0, []int{m * k, n * k, n, m * n, m * k, n * k},
			func(d kernels.Device, x []kernels.Buffer) {
				d.LinearBackward(x[0], x[1], x[2], x[3], x[4], x[5], m, n, k)
			})
	}
}

// The causal half of the products counts.
func BenchmarkAttention(b *testing.B) {
	for _, s := range [][4]int{{4, 64, 4, 32}, {4, 256, 12, 64}} {
		n, t, heads, hs := s[0], s[1], s[2], s[3]
		c := heads * hs
		flops := 2 * float64(n*heads*t*(t+1)*hs)
		benchmark(b, fmt.Sprintf("forward/b=%d,t=%d,heads=%d,hs=%d", n, t, heads, hs), flops, 0, []int{n * t * c, n * t * 3 * c},
			func(d kernels.Device, x []kernels.Buffer) { d.Attention(x[0], x[1], n, t, heads, hs) })
		benchmark(b, fmt.Sprintf("backward/b=%d,t=%d,heads=%d,hs=%d", n, t, heads, hs), 2*flops, 0,
			[]int{n * t * 3 * c, n * t * c, n * t * 3 * c},
			func(d kernels.Device, x []kernels.Buffer) {
				d.AttentionBackward(x[0], x[1], x[2], n, t, heads, hs)
			})
	}
}

func BenchmarkElements(b *testing.B) {
	const n = 1 << 18
	x := []int{n, n, n, n}
	benchmark(b, "gelu", 0, 8*n, x, func(d kernels.Device, x []kernels.Buffer) { d.GELU(x[0], x[1]) })
	benchmark(b, "geluBackward", 0, 16*n, x, func(d kernels.Device, x []kernels.Buffer) { d.GELUBackward(x[0], x[3], x[2], x[1]) })
	benchmark(b, "add", 0, 12*n, x, func(d kernels.Device, x []kernels.Buffer) { d.Add(x[0], x[1], x[2]) })
	benchmark(b, "squareSum", 0, 4*n, append(x, 1), func(d kernels.Device, x []kernels.Buffer) { d.SquareSum(x[4], x[1]) })
	benchmark(b, "adamw", 0, 28*n, x, func(d kernels.Device, x []kernels.Buffer) {
		d.Zero(x[1])
		d.AdamW(x[0], x[1], x[2], x[1], 1, kernels.AdamW{LR: 1e-3, Beta1: 0.9, Beta2: 0.99, Eps: 1e-8, Step: 5})
	})
}

func BenchmarkRows(b *testing.B) {
	const rows, c = 256, 768
	lengths := []int{rows * c, c, c, rows * c, rows * c, c, rows, rows}
	benchmark(b, "layerNorm", 0, 8*rows*c, lengths, func(d kernels.Device, x []kernels.Buffer) {
		d.LayerNorm(x[0], x[6], x[7], x[3], x[1], x[2], rows, c)
	})
	benchmark(b, "residualLayerNorm", 0, 16*rows*c, append(lengths, rows*c), func(d kernels.Device, x []kernels.Buffer) {
		d.ResidualLayerNorm(x[0], x[8], x[6], x[7], x[3], x[4], x[1], x[2], rows, c)
	})
	benchmark(b, "layerNormBackward", 0, 16*rows*c, lengths, func(d kernels.Device, x []kernels.Buffer) {
		d.LayerNormBackward(x[0], x[1], x[2], x[3], x[4], x[5], x[6], x[7], rows, c)
	})
	const v = 50257
	benchmark(b, "crossEntropy", 0, 12*64*v, []int{64, 64 * v}, func(d kernels.Device, x []kernels.Buffer) {
		targets, err := d.AllocInts(64)
		require.NoError(b, err)
		d.CrossEntropy(x[0], x[1], targets, 64, v, 1)
	})
}

func BenchmarkPeak(b *testing.B) {
	for _, threads := range []int{1, 2} {
		b.Run(fmt.Sprintf("threads=%d", threads), func(b *testing.B) {
			best := 0.0
			for b.Loop() {
				best = max(best, kernels.PeakGFLOPS(kernels.Config{Threads: threads}, 100*time.Millisecond))
			}
			b.ReportMetric(best, "GF/s")
		})
	}
}

// BenchmarkWindows is a small network's first stage on 64 images: GB/s of pooling count its input and output once.
func BenchmarkWindows(b *testing.B) {
	const filters = 32
	in := kernels.Window{Images: 64, Height: 28, Width: 28, Channels: filters, Rows: 3, Columns: 3, Stride: 1, Pad: 1}
	pool := in
	pool.Rows, pool.Columns, pool.Stride, pool.Pad = 2, 2, 2, 0
	const pixels = 64 * 28 * 28
	const x, w, out = pixels * filters, filters * 9 * filters, pixels / 4 * filters
	benchmark(b, "conv", 2*pixels*w, 0, []int{x, x, w, filters}, func(d kernels.Device, b []kernels.Buffer) {
		d.Conv(b[0], b[1], b[2], b[3], filters, in)
	})
	benchmark(b, "convBackward", 4*pixels*w, 0, []int{x, w, filters, x, x, w}, func(d kernels.Device, b []kernels.Buffer) {
		d.ConvBackward(b[0], b[1], b[2], b[3], b[4], b[5], filters, in)
	})
	benchmark(b, "maxPool", 0, 4*(x+out), []int{out, x}, func(d kernels.Device, b []kernels.Buffer) { d.MaxPool(b[0], b[1], pool) })
	benchmark(b, "maxPoolBackward", 0, 4*(2*x+out), []int{x, out, x}, func(d kernels.Device, b []kernels.Buffer) {
		d.MaxPoolBackward(b[0], b[1], b[2], pool)
	})
}
