package elastic_test

import (
	"math/bits"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/farandole-ml/farandole/elastic"
)

func totalPartials(ranges []elastic.Range, shards int) int {
	n := 0
	for _, r := range ranges {
		n += len(elastic.Partials(r, shards))
	}
	return n
}

// requireCover checks what every assignment promises: contiguous, complete, sizes that differ by at most one.
func requireCover(t *testing.T, ranges []elastic.Range, shards, world int) {
	t.Helper()
	require.Len(t, ranges, world)
	at := 0
	for _, r := range ranges {
		require.Equal(t, at, r.First)
		require.Contains(t, []int{shards / world, (shards + world - 1) / world}, r.Len())
		at = r.End
	}
	require.Equal(t, shards, at)
}

// pairs counts the nodes with two shards.
func pairs(node elastic.Range) int {
	left, right, ok := elastic.Children(node)
	switch {
	case !ok:
		return 0
	case node.Len() == 2:
		return 1
	}
	return pairs(left) + pairs(right)
}

func TestAssignPromises(t *testing.T) {
	for shards := 1; shards <= 70; shards++ {
		for world := 1; world <= shards; world++ {
			ranges := elastic.Assign(shards, world)
			requireCover(t, ranges, shards, world)
			oneEach := totalPartials(ranges, shards) == world
			if 2*world > shards && pairs(elastic.Range{First: 0, End: shards}) >= shards-world {
				require.Truef(t, oneEach, "S=%d W=%d: %v", shards, world, ranges)
			}
			if bits.OnesCount(uint(world)) == 1 && shards%world == 0 {
				require.Truef(t, oneEach, "S=%d W=%d divides by halves: %v", shards, world, ranges)
			}
		}
	}
	for s := 1; s <= 256; s *= 2 {
		require.GreaterOrEqual(t, pairs(elastic.Range{First: 0, End: s}), s/2)
	}
}

// bestPartials tries every placement of the larger ranges.
func bestPartials(shards, world int) int {
	small, big := shards/world, shards%world
	best := 1 << 30
	var try func(i, k, first, sum int)
	try = func(i, k, first, sum int) {
		if i == world {
			if k == big {
				best = min(best, sum)
			}
			return
		}
		for _, extra := range []int{0, 1} {
			if k+extra > big {
				continue
			}
			r := elastic.Range{First: first, End: first + small + extra}
			if r.End > shards {
				continue
			}
			try(i+1, k+extra, r.End, sum+len(elastic.Partials(r, shards)))
		}
	}
	try(0, 0, 0, 0)
	return best
}

func TestAssignHasFewestPartials(t *testing.T) {
	for shards := 1; shards <= 16; shards++ {
		for world := 1; world <= shards; world++ {
			require.Equalf(t, bestPartials(shards, world), totalPartials(elastic.Assign(shards, world), shards),
				"S=%d W=%d", shards, world)
		}
	}
}

// TestAssignFigures holds the design's figures: the bytes of a tree-ordered reduce-scatter over those of a ring are
// partials per worker.
func TestAssignFigures(t *testing.T) {
	ratio := func(shards, world int) float64 {
		return float64(totalPartials(elastic.Assign(shards, world), shards)) / float64(world)
	}
	require.InDelta(t, 1.67, ratio(8, 3), 0.01)
	require.Equal(t, 1.0, ratio(8, 2))
	require.Equal(t, 1.0, ratio(8, 5))
	for _, shards := range []int{4, 8, 16, 32} {
		sum := 0.0
		for world := 1; world <= shards; world++ {
			sum += ratio(shards, world)
		}
		mean := sum / float64(shards)
		t.Logf("S=%d: mean over all world sizes %.3f", shards, mean)
		require.Less(t, mean, 1.3)
		require.GreaterOrEqual(t, mean, 1.0)
	}
}

func TestAssignLarge(t *testing.T) {
	for _, c := range []struct{ shards, world int }{{1 << 15, 25_000}, {1 << 14, 5_000}, {4096, 1500}} {
		ranges := elastic.Assign(c.shards, c.world)
		requireCover(t, ranges, c.shards, c.world)
		if 2*c.world > c.shards {
			require.Equal(t, c.world, totalPartials(ranges, c.shards))
		}
	}
}

func TestAssignRefuses(t *testing.T) {
	for _, c := range [][2]int{{8, 0}, {8, 9}, {0, 1}, {8, -1}} {
		require.Panics(t, func() { elastic.Assign(c[0], c[1]) })
	}
	require.Panics(t, func() { elastic.Partials(elastic.Range{First: 0, End: 9}, 8) })
	require.Panics(t, func() { elastic.NewMerger(elastic.Range{First: 3, End: 2}, 8) })
}

func TestPartials(t *testing.T) {
	for _, c := range []struct {
		r      elastic.Range
		shards int
		want   []elastic.Range
	}{
		{elastic.Range{First: 0, End: 8}, 8, []elastic.Range{{First: 0, End: 8}}},
		{elastic.Range{First: 1, End: 7}, 8, []elastic.Range{{First: 1, End: 2}, {First: 2, End: 4}, {First: 4, End: 6}, {First: 6, End: 7}}},
		{elastic.Range{First: 0, End: 3}, 8, []elastic.Range{{First: 0, End: 2}, {First: 2, End: 3}}},
		{elastic.Range{First: 3, End: 5}, 7, []elastic.Range{{First: 3, End: 5}}},
		{elastic.Range{First: 4, End: 4}, 8, nil},
	} {
		require.Equalf(t, c.want, elastic.Partials(c.r, c.shards), "%v of %d", c.r, c.shards)
	}
}

// treeSum is the reduction tree, written as its definition: an expression as text.
func treeSum(n elastic.Range) string {
	left, right, ok := elastic.Children(n)
	if !ok {
		return string(rune('a' + n.First))
	}
	return "(" + treeSum(left) + treeSum(right) + ")"
}

// TestMerger runs every worker's plan on symbolic buffers: what is left must be the partials, each the tree's
// own expression, and no buffer may be lost or overwritten.
func TestMerger(t *testing.T) {
	for shards := 1; shards <= 24; shards++ {
		for first := 0; first < shards; first++ {
			for end := first; end <= shards; end++ {
				r := elastic.Range{First: first, End: end}
				slots := make([]string, elastic.Slots(r, shards))
				want := elastic.Partials(r, shards)
				next := first
				m := elastic.NewMerger(r, shards)
				for s, ok := m.Next(); ok; s, ok = m.Next() {
					require.Equal(t, next, s.Leaf)
					next++
					require.Empty(t, slots[s.Slot])
					slots[s.Slot] = treeSum(elastic.Range{First: s.Leaf, End: s.Leaf + 1})
					for _, g := range s.Merges {
						slots[g.Into] = "(" + slots[g.Into] + slots[g.From] + ")"
						slots[g.From] = ""
						require.Equal(t, treeSum(g.Node), slots[g.Into])
					}
				}
				require.Equal(t, end, next)
				require.LessOrEqual(t, len(slots), len(want)+bits.Len(uint(r.Len())))
				if len(want) == 1 {
					require.LessOrEqual(t, len(slots), 1+bits.Len(uint(r.Len()-1)))
				}
				for i, p := range want {
					require.Equal(t, treeSum(p), slots[i])
				}
				require.Equal(t, len(want), len(slots)-len(slices.DeleteFunc(slices.Clone(slots), func(s string) bool { return s != "" })))
			}
		}
	}
}

func BenchmarkAssign(b *testing.B) {
	for b.Loop() {
		elastic.Assign(32, 21)
	}
}
