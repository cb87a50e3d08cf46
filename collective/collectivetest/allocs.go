package collectivetest

import (
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/farandole-ml/farandole/collective"
)

// allocRounds are counted together: what happens once, such as the start of a goroutine, is far less than one a round.
const allocRounds = 50

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
	wait := run(rounds[1:], allocRounds+1) // AllocsPerRun makes one that it does not count
	n := testing.AllocsPerRun(allocRounds, rounds[0])
	wait()
	require.Less(t, n, 1.0)
}
