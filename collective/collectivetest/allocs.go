package collectivetest

import (
	"math"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/farandole-ml/farandole/collective"
)

// Allocations are counted over allocWindows times allocRounds rounds. What an operation allocates shows in every window; what
// the run-time allocates for itself, such as a thread that it starts on a busy machine, does not.
const (
	allocWindows = 5
	allocRounds  = 10
)

// RequireNoAllocations fails t if the groups, which are all ranks of one, allocate in steady state: prepare makes a rank's
// round, which all ranks run together again and again. Allocations are counted when every rank has run a few.
func RequireNoAllocations(t *testing.T, groups []*collective.Group, prepare func(g *collective.Group) func() error) {
	t.Helper()
	rounds := make([]func(), len(groups))
	for r, g := range groups {
		f := prepare(g)
		rounds[r] = func() {
			if err := f(); err != nil {
				t.Errorf("rank %d: %v", r, err)
			}
		}
	}
	run := func(ranks []func(), n int) (wait func()) {
		var wg sync.WaitGroup
		for _, f := range ranks {
			wg.Go(func() {
				for range n {
					f()
				}
			})
		}
		return wg.Wait
	}
	run(rounds, 3)()
	wait := run(rounds[1:], allocWindows*(allocRounds+1)) // AllocsPerRun makes one that it does not count
	least := math.Inf(1)
	for range allocWindows {
		least = min(least, testing.AllocsPerRun(allocRounds, rounds[0]))
	}
	wait()
	require.Less(t, least, 1.0)
}
