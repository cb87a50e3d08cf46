package kernels_test

import (
	"fmt"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/stretchr/testify/require"

	"github.com/farandole-ml/farandole/kernels"
)

// hugeBytes is zeroed memory in large pages where the machine gives them.
func hugeBytes(b *testing.B, n int) []byte {
	const huge = 2 << 20
	m, err := unix.Mmap(-1, 0, n+huge, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	require.NoError(b, err)
	b.Cleanup(func() { require.NoError(b, unix.Munmap(m)) })
	_ = unix.Madvise(m, unix.MADV_HUGEPAGE)
	for i := 0; i < len(m); i += 4096 {
		m[i] = 0
	}
	from := -int(uintptr(unsafe.Pointer(unsafe.SliceData(m)))) & (huge - 1)
	return m[from:][:n:n]
}

func report(b *testing.B, bytes int) {
	b.ReportMetric(float64(bytes)*float64(b.N)/float64(b.Elapsed().Nanoseconds()), "GB/s")
}

func sizeName(n int) string {
	if n >= 1<<20 {
		return fmt.Sprintf("%dM", n>>20)
	}
	return fmt.Sprintf("%dK", n>>10)
}

// BenchmarkReduction prints bytes read and written a second; "memory" is what a copy and a read of another array reach, which
// move as many bytes as a sum of two.
func BenchmarkReduction(b *testing.B) {
	for _, n := range []int{64 << 10, 1 << 20, 64 << 20} {
		b.Run("memory/"+sizeName(n), func(b *testing.B) {
			dst, x, y := hugeBytes(b, n), hugeBytes(b, n), hugeBytes(b, n)
			floats := unsafe.Slice((*float32)(unsafe.Pointer(unsafe.SliceData(y))), n/4)
			for b.Loop() {
				copy(dst, x)
				kernels.FirstNonFinite(floats)
			}
			report(b, 3*n)
		})
		for _, c := range []struct {
			name       string
			r          kernels.Reduction
			srcs, dsts int
			inPlace    bool
		}{
			{name: "sum2", srcs: 2, dsts: 1},
			{name: "sum2 in place", srcs: 2, dsts: 1, inPlace: true},
			{name: "sum2 to both", srcs: 2, dsts: 2, inPlace: true},
			{name: "sum4 balanced", r: kernels.Reduction{Order: []int16{0, 1, -1, 2, 3, -1, -1}}, srcs: 4, dsts: 1},
			{name: "sum4 balanced to all", r: kernels.Reduction{Order: []int16{0, 1, -1, 2, 3, -1, -1}}, srcs: 4, dsts: 4, inPlace: true},
			{name: "sum8 left", srcs: 8, dsts: 1},
			{name: "sum5 left", srcs: 5, dsts: 1},
			{name: "max2", r: kernels.Reduction{Op: kernels.Max}, srcs: 2, dsts: 1},
			{name: "rounded sum2", r: kernels.Reduction{Round: true}, srcs: 2, dsts: 1},
			{name: "bfloat16 sum2", r: kernels.Reduction{Type: kernels.BFloat16}, srcs: 2, dsts: 1},
			{name: "float16 sum2", r: kernels.Reduction{Type: kernels.Float16}, srcs: 2, dsts: 1},
			{name: "float64 sum2", r: kernels.Reduction{Type: kernels.Float64}, srcs: 2, dsts: 1},
			{name: "int64 prod2", r: kernels.Reduction{Type: kernels.Int64, Op: kernels.Prod}, srcs: 2, dsts: 1},
			{name: "uint8 sum2", r: kernels.Reduction{Type: kernels.Uint8}, srcs: 2, dsts: 1},
			{name: "float32 avg2", r: kernels.Reduction{Divisor: 2}, srcs: 2, dsts: 1},
		} {
			b.Run(c.name+"/"+sizeName(n), func(b *testing.B) {
				var srcs, dsts [][]byte
				for range c.srcs {
					srcs = append(srcs, hugeBytes(b, n))
				}
				for i := range c.dsts {
					if c.inPlace {
						dsts = append(dsts, srcs[i])
					} else {
						dsts = append(dsts, hugeBytes(b, n))
					}
				}
				for b.Loop() {
					c.r.Run(dsts, srcs)
				}
				report(b, n*(len(srcs)+len(dsts)))
			})
		}
	}
}

// BenchmarkReductionStream shows from where streaming stores pay: each size with and without them.
func BenchmarkReductionStream(b *testing.B) {
	for _, n := range []int{1 << 20, 4 << 20, 8 << 20, 12 << 20, 16 << 20, 32 << 20} {
		for _, stream := range []bool{false, true} {
			b.Run(fmt.Sprintf("%s/stream=%t", sizeName(n), stream), func(b *testing.B) {
				dsts, srcs := [][]byte{hugeBytes(b, n)}, [][]byte{hugeBytes(b, n), hugeBytes(b, n)}
				for b.Loop() {
					(&kernels.Reduction{}).RunOn(kernels.ISAs()[0], stream, dsts, srcs)
				}
				report(b, 3*n)
			})
		}
	}
}

// BenchmarkReductionSmall compares the call into C with plain Go.
func BenchmarkReductionSmall(b *testing.B) {
	for _, n := range []int{1, 4, 16, 64, 256} {
		dsts, srcs := [][]byte{make([]byte, 4*n)}, [][]byte{make([]byte, 4*n), make([]byte, 4*n)}
		r := &kernels.Reduction{}
		b.Run(fmt.Sprintf("%d/best", n), func(b *testing.B) {
			for b.Loop() {
				r.Run(dsts, srcs)
			}
		})
		b.Run(fmt.Sprintf("%d/best, two", n), func(b *testing.B) {
			for b.Loop() {
				kernels.Reduce2(kernels.Float32, kernels.Sum, dsts[0], srcs[0], srcs[1])
			}
		})
		b.Run(fmt.Sprintf("%d/go", n), func(b *testing.B) {
			for b.Loop() {
				r.RunOn("go", false, dsts, srcs)
			}
		})
	}
}
