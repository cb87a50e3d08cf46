package kernels_test

import (
	"maps"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/farandole-ml/farandole/kernels"
)

// bound counts, for each processor, the threads of this process that may run there alone.
func bound(t *testing.T) map[int]int {
	t.Helper()
	tasks, err := os.ReadDir("/proc/self/task")
	require.NoError(t, err)
	counts := map[int]int{}
	for _, task := range tasks {
		id, err := strconv.Atoi(task.Name())
		require.NoError(t, err)
		var set unix.CPUSet
		if err := unix.SchedGetaffinity(id, &set); err != nil || set.Count() != 1 {
			continue // it ended, or it is not bound
		}
		for cpu := range len(set) * 64 {
			if set.IsSet(cpu) {
				counts[cpu]++
			}
		}
	}
	return counts
}

func TestPin(t *testing.T) {
	var before, after unix.CPUSet
	require.NoError(t, unix.SchedGetaffinity(0, &before))
	var all []int
	for cpu := range len(before) * 64 {
		if before.IsSet(cpu) {
			all = append(all, cpu)
		}
	}
	if len(all) < 2 {
		t.Skip("one processor: every thread is bound to it")
	}
	_, err := kernels.NewCPU(kernels.Config{Threads: len(all) + 1, Pin: true})
	require.ErrorContains(t, err, "use at most")

	for _, c := range []struct {
		rank, threads int
		want          map[int]int
	}{
		{0, 1, map[int]int{all[0]: 1}},
		{1, 1, map[int]int{all[1]: 1}},
		{len(all), 1, map[int]int{all[0]: 1}}, // from the beginning again
		{0, 2, map[int]int{all[0]: 1, all[1]: 1}},
	} {
		d, err := kernels.NewCPU(kernels.Config{Threads: c.threads, Pin: true, LocalRank: c.rank})
		require.NoError(t, err)
		require.Contains(t, d.Name(), "pinned")
		kernels.CutFinely(d)
		rng := rand.New(rand.NewPCG(3, 3))
		x, w := hardFloats(rng, 70*64, true), hardFloats(rng, 70*64, true)
		require.Equal(t, linearOn(t, newCPU(t, "go", 1), x, w, 70, 70, 64), linearOn(t, d, x, w, 70, 70, 64))
		require.Eventually(t, func() bool { return maps.Equal(c.want, bound(t)) }, 10*time.Second, time.Millisecond, "%+v %v", c, bound(t))
		require.NoError(t, d.Close())
		require.Eventually(t, func() bool { return len(bound(t)) == 0 }, 10*time.Second, time.Millisecond, "threads are let go with the device")
	}
	require.NoError(t, unix.SchedGetaffinity(0, &after))
	require.Equal(t, before, after, "the caller's own thread")
}
