package data_test

import (
	"math"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/farandole-ml/farandole/elastic"
	"github.com/farandole-ml/farandole/worker/data"
)

// step gives all samples of a step, shard by shard.
func step(o data.Order, s elastic.Step, shards int) []int64 {
	var all []int64
	for i := range shards {
		all = o.AppendSamples(all, elastic.Shard{Step: s, Index: i, Count: shards})
	}
	return all
}

func TestEverySampleIsReadOnceAnEpoch(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		o := data.Order{
			Seed: rapid.Uint64().Draw(t, "seed"),
			Len:  rapid.Int64Range(1, 400).Draw(t, "len"),
		}
		o.PerStep = rapid.Int64Range(1, o.Len).Draw(t, "perStep")
		shards := rapid.IntRange(1, int(o.PerStep)).Draw(t, "shards")
		const epochs = 3
		var read []int64
		for s := elastic.Step(1); int64(len(read)) < epochs*o.Len; s++ {
			read = append(read, step(o, s, shards)...)
		}
		for e := range int64(epochs) {
			epoch := slices.Sorted(slices.Values(read[e*o.Len : (e+1)*o.Len]))
			for i, id := range epoch {
				if id != int64(i) {
					t.Fatalf("epoch %d: sample %d is read %v", e, i, epoch)
				}
			}
		}
	})
}

func TestAGlobalBatchDoesNotDependOnItsSplit(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		o := data.Order{
			Seed:    rapid.Uint64().Draw(t, "seed"),
			Len:     rapid.Int64Range(1, 1<<40).Draw(t, "len"),
			PerStep: rapid.Int64Range(1, 60).Draw(t, "perStep"),
		}
		s := elastic.Step(rapid.Int64Range(1, 1<<40).Draw(t, "step"))
		shards := rapid.IntRange(1, int(o.PerStep)).Draw(t, "shards")
		whole := step(o, s, 1)
		require.Len(t, whole, int(o.PerStep))
		require.Equal(t, whole, step(o, s, shards))
		for _, id := range whole {
			require.True(t, id >= 0 && id < o.Len)
		}
		least, most := int64(math.MaxInt64), int64(0)
		for i := range shards {
			n := int64(len(o.SamplesOf(elastic.Shard{Step: s, Index: i, Count: shards})))
			least, most = min(least, n), max(most, n)
		}
		require.LessOrEqual(t, most-least, int64(1), "as equal as they can be")
	})
}

func TestEpochsAndSeedsHaveTheirOwnOrder(t *testing.T) {
	const n = 1000
	read := func(seed uint64, s elastic.Step) []int64 {
		return step(data.Order{Seed: seed, Len: n, PerStep: n}, s, 1)
	}
	orders := [][]int64{read(1, 1), read(1, 2), read(1, 3), read(2, 1)}
	identity := slices.Sorted(slices.Values(orders[0]))
	for i, a := range append(orders, identity) {
		for _, b := range orders[:min(i, len(orders))] {
			equal := 0
			for k := range a {
				if a[k] == b[k] {
					equal++
				}
			}
			require.Less(t, equal, 10, "two permutations agree in about one place") // Poisson of mean 1
		}
	}
	require.Equal(t, orders[0], read(1, 1))
}

// TestNeighboursAreScattered finds a network that leaves structure: the mean distance of two successive
// samples of a random order is a third of the length.
func TestNeighboursAreScattered(t *testing.T) {
	for _, n := range []int64{64, 65, 255, 256, 1000, 4097} {
		total, count := 0.0, 0.0
		for seed := range uint64(20) {
			ids := step(data.Order{Seed: seed, Len: n, PerStep: n}, 1, 1)
			for i := range ids[1:] {
				total += math.Abs(float64(ids[i+1] - ids[i]))
				count++
			}
		}
		require.InDelta(t, 1.0/3, total/count/float64(n), 0.02, "%d samples", n)
	}
}

// TestOrderIsPinned has ids that must never change: jobs resume by them.
func TestOrderIsPinned(t *testing.T) {
	o := data.Order{Seed: 7, Len: 1000, PerStep: 8}
	require.Equal(t, []int64{315, 117}, o.SamplesOf(elastic.Shard{Step: 3, Index: 1, Count: 4}))
	require.Equal(t, []int64{314, 31}, o.SamplesOf(elastic.Shard{Step: 126, Index: 1, Count: 4}), "second epoch")
}

func TestOrderCheck(t *testing.T) {
	var input *data.InputError
	require.NoError(t, data.Order{Len: 8, PerStep: 8}.Check(8))

	err := data.Order{Len: 7, PerStep: 8}.Check(8)
	require.ErrorIs(t, err, data.ErrTooSmall)
	require.ErrorAs(t, err, &input)
	require.ErrorContains(t, err, "7 samples")

	for _, bad := range []struct {
		order  data.Order
		shards int
	}{{data.Order{Len: 100, PerStep: 4}, 8}, {data.Order{Len: 100, PerStep: 4}, 0}, {data.Order{Len: 100, PerStep: -1}, 1}} {
		err = bad.order.Check(bad.shards)
		require.ErrorAs(t, err, &input)
		require.NotErrorIs(t, err, data.ErrTooSmall)
	}
	require.ErrorIs(t, data.Order{Len: 0, PerStep: 1}.Check(1), data.ErrTooSmall)
}
