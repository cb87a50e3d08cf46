package collective_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/farandole-ml/farandole/collective"
	"github.com/farandole-ml/farandole/collective/transport/inproc"
	"github.com/farandole-ml/farandole/elastic"
)

// counted counts the bytes that a rank sends.
type counted struct {
	collective.Transport
	bytes atomic.Int64
}

func (c *counted) Send(to int, b []byte) error {
	c.bytes.Add(int64(len(b)))
	return c.Transport.Send(to, b)
}

// sentBy runs one operation on every rank and gives the bytes that each sent.
func sentBy(t *testing.T, world int, run func(g *collective.Group) error) []int64 {
	transports := inproc.New(world)
	sent := make([]int64, world)
	errs := make([]error, world)
	var wg sync.WaitGroup
	for r, tr := range transports {
		wg.Go(func() {
			c := &counted{Transport: tr}
			g := collective.NewTuned(c, collective.Tuning{DirectBytes: -1})
			defer g.Close()
			errs[r] = run(g)
			sent[r] = c.bytes.Load()
		})
	}
	wg.Wait()
	for _, err := range errs {
		require.NoError(t, err)
	}
	return sent
}

// TestTraffic checks the byte counts of docs/algorithms.md by counting, and with -v prints its table.
func TestTraffic(t *testing.T) {
	ctx := context.Background()
	for _, shards := range []int{8, 16, 32} {
		var table strings.Builder
		fmt.Fprintf(&table, "S = %d\n| W | partials | largest | reduce-scatter | whole |\n|---|---|---|---|---|\n", shards)
		for world := 2; world <= shards; world++ {
			n := 16 * world * 8 // elements: segments of equal length
			ring := sentBy(t, world, func(g *collective.Group) error {
				b := collective.Of(make([]float32, n))
				return g.AllReduce(ctx, b, b, collective.Sum)
			})
			ranges := elastic.Assign(shards, world)
			tree := sentBy(t, world, func(g *collective.Group) error {
				var partials []collective.Partial
				for _, node := range elastic.Partials(ranges[g.Rank()], shards) {
					partials = append(partials, collective.Partial{Node: node, Data: make([]float32, n)})
				}
				return g.ReduceTree(ctx, make([]float32, n), partials, ranges, shards)
			})
			all, largest := 0, 0
			var sent int64
			for r := range world {
				p := len(elastic.Partials(ranges[r], shards))
				all, largest = all+p, max(largest, p)
				sent += tree[r]
				share := int64(4 * n / world * (world - 1)) // a buffer less the own segment
				require.Equal(t, 2*share, ring[r])
				require.Equal(t, int64(p+1)*share, tree[r])
			}
			scatter := float64(all) / float64(world)
			require.InDelta(t, (scatter+1)/2, float64(sent)/float64(int64(world)*ring[0]), 1e-12)
			fmt.Fprintf(&table, "| %d | %d | %d | %.2f | %.2f |\n", world, all, largest, scatter, (scatter+1)/2)
		}
		t.Log("\n" + table.String())
	}
}

// TestTrafficOfAlgorithms checks the bytes that docs/algorithms.md says for each algorithm: those that all ranks send.
func TestTrafficOfAlgorithms(t *testing.T) {
	type row struct {
		kind      collective.OpKind
		algorithm collective.Algorithm
		all       func(w, n int) int // n: bytes of the buffer, or of one rank's part of it
	}
	power := func(w int) (p int) {
		for p = 1; 2*p <= w; p *= 2 {
		}
		return p
	}
	rows := []row{
		{collective.OpAllReduce, collective.Ring, func(w, n int) int { return 2 * (w - 1) * n }},
		{collective.OpAllReduce, collective.Direct, func(w, n int) int { return 2 * (w - 1) * n }},
		{collective.OpAllReduce, collective.HalvingDoubling, func(w, n int) int { return 2 * (power(w) - 1 + w - power(w)) * n }},
		{collective.OpAllReduce, collective.BinaryTree, func(w, n int) int { return 2 * (w - 1) * n }},
		{collective.OpReduceScatter, collective.Ring, func(w, n int) int { return w * (w - 1) * n }},
		{collective.OpReduceScatter, collective.Direct, func(w, n int) int { return w * (w - 1) * n }},
		{collective.OpAllGather, collective.Ring, func(w, n int) int { return w * (w - 1) * n }},
		{collective.OpAllGather, collective.Direct, func(w, n int) int { return w * (w - 1) * n }},
		{collective.OpBroadcast, collective.Ring, func(w, n int) int { return (w - 1) * n }},
		{collective.OpBroadcast, collective.BinaryTree, func(w, n int) int { return (w - 1) * n }},
		{collective.OpBroadcast, collective.Direct, func(w, n int) int { return (w - 1) * n }},
		{collective.OpReduce, collective.Ring, func(w, n int) int { return (w - 1) * n }},
		{collective.OpReduce, collective.BinaryTree, func(w, n int) int { return (w - 1) * n }},
		{collective.OpReduce, collective.Direct, func(w, n int) int { return (w - 1) * n }},
		{collective.OpAllToAll, collective.Direct, func(w, n int) int { return (w - 1) * n }},
	}
	for _, r := range rows {
		for world := 2; world <= 9; world++ {
			n := 64 * 2520 // divisible by every world
			sent := sentBy(t, world, func(g *collective.Group) error {
				c := collective.Call{Kind: r.kind, Algorithm: r.algorithm}
				in, out := n, n
				switch r.kind {
				case collective.OpReduceScatter:
					in = n * world
				case collective.OpAllGather:
					out = n * world
				}
				c.In, c.Out = collective.Of(make([]byte, in)), collective.Of(make([]byte, out))
				return g.Do(context.Background(), &c)
			})
			all := 0
			for _, s := range sent {
				all += int(s)
			}
			tokens := all - r.all(world, n)
			require.True(t, tokens == 0 || tokens == world, "%v by %v over %d ranks: %d bytes more than said", r.kind, r.algorithm, world, tokens)
		}
	}
}
