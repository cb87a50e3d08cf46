package kernels

import (
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

// takeAll takes all that a thread can get of a phase, and says where it was told to go on.
func takeAll(r *ranges, thread, phase, units, most int) (taken [][2]int, nexts []int) {
	for {
		from, to, next := r.take(thread, phase, units, most)
		if from == to {
			return taken, nexts
		}
		taken, nexts = append(taken, [2]int{from, to}), append(nexts, next)
	}
}

func TestThreadTakesItsOwnRangeThenOthersEnds(t *testing.T) {
	var r ranges
	r.reset(2)
	for phase := 1; phase <= 2; phase++ { // the second begins anew
		from, to, next := r.take(1, phase, 24, 4)
		require.Equal(t, []int{12, 16, 16}, []int{from, to, next}, "its own begins in the middle")
		taken, nexts := takeAll(&r, 0, phase, 24, 4)
		require.Equal(t, [][2]int{{0, 4}, {4, 8}, {8, 9}, {9, 10}, {10, 11}, {11, 12},
			{22, 24}, {21, 22}, {20, 21}, {19, 20}, {18, 19}, {17, 18}, {16, 17}}, taken)
		require.Equal(t, []int{4, 8, 9, 10, 11, -1, -1, -1, -1, -1, -1, -1, -1}, nexts)
		from, to, _ = r.take(1, phase, 24, 4)
		require.Equal(t, from, to, "nothing is left")
	}
}

func TestThreadAloneTakesAsManyAsItMay(t *testing.T) {
	var r ranges
	r.reset(1)
	taken, _ := takeAll(&r, 0, 1, 10, 4)
	require.Equal(t, [][2]int{{0, 4}, {4, 8}, {8, 10}}, taken)
}

// TestLateThreadFindsNothingOfPhasesThatAreOver has one thread do three phases before the other comes.
func TestLateThreadFindsNothingOfPhasesThatAreOver(t *testing.T) {
	var r ranges
	r.reset(2)
	for phase := 1; phase <= 3; phase++ {
		taken, _ := takeAll(&r, 0, phase, 5, 2)
		units := 0
		for _, x := range taken {
			units += x[1] - x[0]
		}
		require.Equal(t, 5, units)
	}
	for phase := 1; phase <= 3; phase++ {
		taken, _ := takeAll(&r, 1, phase, 5, 2)
		require.Empty(t, taken)
	}
}

func TestEachUnitIsTakenOnce(t *testing.T) {
	var r ranges
	phases := []struct{ units, most int }{{0, 1}, {1, 4}, {7, 1}, {1000, 4}, {3, 4}, {maxUnits, 1 << 16}, {64, 8}}
	for threads := 1; threads <= 5; threads++ {
		r.reset(threads)
		counts := make([][]atomic.Int32, len(phases))
		for i, p := range phases {
			counts[i] = make([]atomic.Int32, min(p.units, 1<<12))
		}
		var sum [7]atomic.Int64
		var wg sync.WaitGroup
		for thread := range threads {
			wg.Go(func() {
				for i, p := range phases {
					taken, _ := takeAll(&r, thread, i+1, p.units, p.most)
					for _, x := range taken {
						sum[i].Add(int64(x[1] - x[0]))
						for u := x[0]; u < min(x[1], len(counts[i])); u++ {
							counts[i][u].Add(1)
						}
					}
				}
			})
		}
		wg.Wait()
		for i, p := range phases {
			require.Equal(t, int64(p.units), sum[i].Load(), "phase %d, %d threads", i, threads)
			once := make([]int32, len(counts[i]))
			for u := range once {
				once[u] = counts[i][u].Load()
			}
			require.False(t, slices.ContainsFunc(once, func(n int32) bool { return n != 1 }))
		}
	}
}
