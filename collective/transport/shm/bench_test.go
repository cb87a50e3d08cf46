//go:build linux

package shm

import (
	"context"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/farandole-ml/farandole/collective"
	"github.com/farandole-ml/farandole/kernels"
)

// BenchmarkAlone is what an operation costs beside the waiting and the transfers: a group of one.
func BenchmarkAlone(b *testing.B) {
	g := collective.New(connected(b, 1)[0])
	defer g.Close()
	x := collective.Of(make([]float32, 256))
	for _, c := range []collective.Call{
		{Kind: collective.OpBarrier},
		{Kind: collective.OpAllReduce, Out: x, In: x},
	} {
		b.Run(c.Kind.String(), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := g.Do(context.Background(), &c); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkProcessors is how fast one processor hands a word to another, and stores 480 KiB that the other one has read: by ordinary stores
// and past the caches. It is what the constants of stores are made of. It varies with where the system runs the two.
func BenchmarkProcessors(b *testing.B) {
	const bytes, rounds = 480 << 10, 40
	shared, own := make([]byte, bytes), make([]byte, bytes)
	read := make([]byte, bytes)
	var turn atomic.Int64
	await := func(me int64) {
		for turn.Load()&1 != me {
		}
	}
	var handover, ordinary, past, reads time.Duration
	play := func(me int64) {
		runtime.LockOSThread() // never unlocked: the thread goes with its processor
		var one unix.CPUSet
		one.Set(int(me))
		_ = unix.SchedSetaffinity(0, &one)
		start := time.Now()
		for range 100 * rounds {
			await(me)
			turn.Add(1)
		}
		if me == 0 {
			handover += time.Since(start) / (200 * rounds)
		}
		for i := range rounds {
			await(me)
			start := time.Now()
			switch {
			case me == 1:
				copy(read, shared)
				reads += time.Since(start)
			case i%2 == 0:
				copy(shared, own)
				ordinary += time.Since(start)
			default:
				kernels.CopyPast(shared, own)
				past += time.Since(start)
			}
			turn.Add(1)
		}
	}
	if runtime.NumCPU() < 2 {
		b.Skip("one processor")
	}
	for b.Loop() {
		var wg sync.WaitGroup
		wg.Go(func() { play(0) })
		wg.Go(func() { play(1) })
		wg.Wait()
	}
	rate := func(took time.Duration, copies int) float64 {
		return float64(b.N*copies*bytes) / float64(took.Nanoseconds())
	}
	b.ReportMetric(float64(handover.Nanoseconds())/float64(b.N), "handover-ns")
	b.ReportMetric(rate(ordinary, rounds/2), "ordinary-GB/s")
	b.ReportMetric(rate(past, rounds/2), "past-GB/s")
	b.ReportMetric(rate(reads, rounds), "read-GB/s")
}
