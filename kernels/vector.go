package kernels

import (
	"fmt"
	"sync"
	"time"
	"unsafe"
)

// AddF32 is dst = a + b, element by element, on the caller's thread and without allocating.
// dst may be a or b; other overlaps are not allowed. All three have the same length. It is the Reduction of two sources: a NaN
// becomes the canonical one.
func AddF32(dst, a, b []float32) {
	if len(a) != len(dst) || len(b) != len(dst) {
		panic(fmt.Sprintf("kernels: AddF32 of %d, %d and %d values", len(dst), len(a), len(b)))
	}
	if len(dst) > 0 {
		best().reduce2(Float32, Sum, bytesOf(dst), bytesOf(a), bytesOf(b), 12*len(dst) >= StreamBytes)
	}
}

func bytesOf(x []float32) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(x))), 4*len(x))
}

// FirstNonFinite is the index of the first NaN or infinity in x, or -1 when all values are finite.
// It runs on the caller's thread and does not allocate.
func FirstNonFinite(x []float32) int { return best().firstNonFinite(x) }

// peakSlice is about how many floating-point operations PeakGFLOPS does between two looks at the clock.
const peakSlice = 20_000_000

// PeakGFLOPS measures how many 10⁹ floating-point operations a second (a fused multiply-add is two) the given number of
// threads reach together in registers, with the best instruction set, over d. It is what a matrix product is measured
// against; other processes on the machine lower it.
func PeakGFLOPS(threads int, d time.Duration) float64 {
	rates := make([]float64, max(threads, 1))
	var wg sync.WaitGroup
	for i := range rates {
		wg.Go(func() {
			e, start, flops := best(), time.Now(), int64(0)
			for flops == 0 || time.Since(start) < d {
				flops += e.fmaLoop(peakSlice)
			}
			rates[i] = float64(flops) / float64(time.Since(start).Nanoseconds())
		})
	}
	wg.Wait()
	sum := 0.0
	for _, r := range rates {
		sum += r
	}
	return sum
}
