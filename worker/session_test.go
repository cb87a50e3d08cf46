package worker

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/farandole-ml/farandole/elastic"
)

func TestSameWeightsOnAnyWorld(t *testing.T) {
	for _, shards := range []int{4, 7} {
		want := alone(t, newLinear(12, shards))
		for world := 1; world <= 4; world++ {
			t.Run(fmt.Sprintf("S=%d W=%d", shards, world), func(t *testing.T) {
				c := newCoordinator(t, elastic.Policy{Min: world})
				var procs []*proc
				for i := range world {
					procs = append(procs, launch(c, i, newLinear(12, shards), nil))
				}
				requireSame(c, want, procs...)
				require.Equal(t, int64(1), procs[0].trainer.finish.Load()+sumFinish(procs[1:]), "Finish runs on one rank")
			})
		}
	}
}

func sumFinish(procs []*proc) (n int64) {
	for _, p := range procs {
		n += p.trainer.finish.Load()
	}
	return n
}
