package elastic

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestPartialsCoverTheRangeWithMaximalNodes(t *testing.T) {
	require.Equal(t, []Range{{0, 8}}, Partials(Range{0, 8}, 8))
	require.Equal(t, []Range{{2, 4}, {4, 5}}, Partials(Range{2, 5}, 8))
	require.Empty(t, Partials(Range{3, 3}, 8))
	for shards := 1; shards <= 40; shards++ {
		for a := 0; a <= shards; a++ {
			for b := a; b <= shards; b++ {
				at := a
				for _, node := range Partials(Range{a, b}, shards) {
					require.Equal(t, at, node.First)
					at = node.End
				}
				require.Equal(t, b, at)
			}
		}
	}
}

func TestAssignCoversAllShardsEvenly(t *testing.T) {
	for shards := 1; shards <= 40; shards++ {
		for world := 1; world <= shards; world++ {
			at := 0
			for _, r := range Assign(shards, world) {
				require.Equal(t, at, r.First)
				require.GreaterOrEqual(t, r.Len(), shards/world)
				require.LessOrEqual(t, r.Len(), shards/world+1)
				at = r.End
			}
			require.Equal(t, shards, at)
		}
	}
}
