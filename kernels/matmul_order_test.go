package kernels

import (
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

// slowPacker packs tile 0 of the first stretch slowly, and notes when something is computed before that has ended.
type slowPacker struct {
	slow         sync.WaitGroup
	done, tooFar atomic.Bool
}

func (*slowPacker) tiling() (rows, columns, work int) { return 1, 2, 1 << 16 }
func (*slowPacker) inPlace(*matmulTask) bool          { return false }

func (e *slowPacker) packRows(_ *matmulTask, _ []float32, k0, _, r0, _ int) {
	if k0 == 0 && r0 == 0 {
		e.slow.Wait()
		e.done.Store(true)
	}
}

func (e *slowPacker) matmulColumns(*matmulTask, []float32, int, int, int, int, int) {
	if !e.done.Load() {
		e.tooFar.Store(true)
	}
}

func (*slowPacker) packColumns(*matmulTask, []float32, int, int, int, int)     { panic("not by rows") }
func (*slowPacker) matmulRows(*matmulTask, []float32, int, int, int, int, int) { panic("not by rows") }

// TestStretchWaitsForItsOwnPacking has three threads and one computing unit a stretch, so that one may be ready to pack the
// next stretch while another still packs this one.
func TestStretchWaitsForItsOwnPacking(t *testing.T) {
	e := new(slowPacker)
	e.slow.Add(1)
	s := matmulSet{used: 1}
	p := &s.products[0]
	p.lay(matmulTask{m: 2, n: 2, k: 2 * BlockK}, e, new(pages), 3, 1)
	require.Equal(t, []int{2, 2, 1}, []int{p.stretches, p.packs, p.units})
	s.ranges.reset(3)
	var threads sync.WaitGroup
	for i := range 3 {
		threads.Go(func() { s.run(i, 3) })
	}
	for range 100_000 { // enough for the others to get wherever they can
		runtime.Gosched()
	}
	e.slow.Done()
	threads.Wait()
	require.False(t, e.tooFar.Load(), "computed with a factor that was not packed yet")
}
