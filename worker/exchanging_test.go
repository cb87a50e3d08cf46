package worker

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/farandole-ml/farandole/elastic"
	"github.com/farandole-ml/farandole/kernels"
)

// treeSum is the sum of the leaves of node in the order of the tree.
func treeSum(leaves [][]float32, node elastic.Range) []float32 {
	if node.End == node.First+1 {
		return append([]float32(nil), leaves[node.First]...)
	}
	left, right, _ := elastic.Children(node)
	out := treeSum(leaves, left)
	kernels.AddF32(out, out, treeSum(leaves, right))
	return out
}

// TestExchangingInChunks reduces parts that are longer than a chunk, in worlds whose ranks have one partial, several, or none, twice with the same inboxes.
func TestExchangingInChunks(t *testing.T) {
	const shards, n = 16, 1000
	r := rand.New(rand.NewPCG(1, 2))
	leaves := make([][]float32, shards)
	for i := range leaves {
		leaves[i] = make([]float32, n)
		for j := range leaves[i] {
			leaves[i][j] = r.Float32() - 0.5
		}
	}
	for _, chunk := range []int{n, 100, 64, 33} {
		for _, world := range []int{2, 3, 5, 7, 15, 16} {
			t.Run(fmt.Sprintf("chunk=%d W=%d", chunk, world), func(t *testing.T) {
				h, view := &fakeHost{}, &elastic.View{Roster: make([]elastic.Member, world), Ranges: elastic.Assign(shards, world)}
				if world == shards-1 { // one has nothing
					view.Ranges = append(elastic.Assign(shards, world-1), elastic.Range{First: shards, End: shards})
				}
				first := &sharedDevice{t: t, host: h, room: -1}
				id, err := first.NewExchange()
				require.NoError(t, err)
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
				defer cancel()
				var wg sync.WaitGroup
				all, errs := make([]*residence, world), make([]error, world)
				for rank := range world {
					own := view.Ranges[rank]
					res := &residence{dev: &sharedDevice{t: t, host: h, room: -1}, grads: &sharedBuffer{x: make([]float32, n)}}
					res.team = newTeam(view, rank, shards, n)
					res.team.chunk = chunk
					w := &exchanging{}
					require.NoError(t, res.reserve(own, shards))
					require.NoError(t, res.team.reserve(res.dev))
					require.NoError(t, w.reserve(res.dev, &res.team))
					all[rank], res.team.way = res, w
					wg.Go(func() {
						if errs[rank] = w.join(ctx, res, id); errs[rank] != nil {
							return
						}
						for range 2 {
							clear(res.slots[0].(*sharedBuffer).x)
							for i, node := range elastic.Partials(own, shards) {
								copy(res.slots[i].(*sharedBuffer).x, treeSum(leaves, node))
							}
							if errs[rank] = res.reduce(ctx, nil); errs[rank] != nil {
								return
							}
						}
					})
				}
				wg.Wait()
				want := treeSum(leaves, elastic.Range{First: 0, End: shards})
				for rank, res := range all {
					require.NoError(t, errs[rank])
					require.Equal(t, want, res.slots[0].(*sharedBuffer).x, "rank %d", rank)
				}
				for _, res := range all {
					require.NoError(t, res.team.leave(res.dev))
				}
				require.Zero(t, h.open)
			})
		}
	}
}
