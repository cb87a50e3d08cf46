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

// CopyPast copies src to dst, as long, past the caches where the machine can, on the caller's thread and without allocating.
// It is for memory that other processors have read and will read again: an ordinary store to such a line first waits until
// they have all given it up.
func CopyPast(dst, src []byte) {
	if len(dst) != len(src) {
		panic(fmt.Sprintf("kernels: CopyPast of %d bytes to %d", len(src), len(dst)))
	}
	if len(dst) > 0 {
		best().copyPast(dst, src)
	}
}

// triadLen is the elements of each of the three arrays that TriadGBs walks over: together far past the caches.
const triadLen = 24 << 20

// TriadGBs measures how many 10⁹ bytes a second the given number of threads read and write together in a = b + c over arrays
// of memory, best of rounds. What the processor reads only to overwrite it does not count, as in STREAM (McCalpin 1995).
func TriadGBs(threads, rounds int) float64 {
	threads = max(threads, 1)
	leaveSlot(threads)
	a, b, c := AlignedFloats(triadLen), AlignedFloats(triadLen), AlignedFloats(triadLen)
	for i := range b { // memory that was never written is one page of zeros, which the caches hold
		b[i], c[i] = 1, 2
	}
	best := 0.0
	for range max(rounds, 1) + 1 { // the first touches the memory
		start := time.Now()
		var wg sync.WaitGroup
		for i := range threads {
			wg.Go(func() {
				from, to := cut(triadLen, Lanes, i, threads), cut(triadLen, Lanes, i+1, threads)
				AddF32(a[from:to], b[from:to], c[from:to])
			})
		}
		wg.Wait()
		best = max(best, 3*4*triadLen/float64(time.Since(start).Nanoseconds()))
	}
	return best
}

// peakSlice is about how many floating-point operations PeakGFLOPS does between two looks at the clock.
const peakSlice = 20_000_000

// PeakGFLOPS measures how many 10⁹ floating-point operations a second (a fused multiply-add is two) cfg's threads reach together in
// registers over d, with the instructions that products of its precision and instruction set use. It is what a matrix product is measured
// against; other processes on the machine lower it. A configuration that NewCPU refuses has none: it panics.
func PeakGFLOPS(cfg Config, d time.Duration) float64 {
	if err := cfg.complete(); err != nil {
		panic(err)
	}
	class, err := cfg.class()
	if err != nil {
		panic(err)
	}
	e := newEngine(cfg.ISA, class)
	rates := make([]float64, cfg.Threads)
	leaveSlot(len(rates))
	var wg sync.WaitGroup
	for i := range rates {
		wg.Go(func() {
			start, flops := time.Now(), int64(0)
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
