package collectivetest

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/farandole-ml/farandole/collective"
)

const maxWorld = 8

var lengths = []int{0, 1, 2, 3, 15, 16, 17, 31, 64, 257, 1000, 1024, 4099}

// testOperations checks the functions that say one operation each, on buffers of many lengths and large ones, and that all ranks
// get the same bits.
func testOperations(t *testing.T, mesh Mesh) {
	for _, p := range grid(1, 2, 5) {
		t.Run(fmt.Sprintf("%s/world %d", p.name, p.world), func(t *testing.T) {
			leakFree(t)
			c := newCluster(t, mesh(t, p.world), p.tuning)
			defer c.close(t)
			for _, n := range lengths {
				c.must(t, func(g *collective.Group) error { return checkAllReduce(g, n) })
				c.must(t, func(g *collective.Group) error { return checkBroadcast(g, n) })
				c.must(t, func(g *collective.Group) error { return checkAllGather(g, n) })
			}
			for _, a := range c.algorithms(collective.OpAllReduce) {
				checkEqualBits(t, c, a)
			}
		})
	}
	t.Run("large", func(t *testing.T) {
		const n = 3<<18 + 5 // several chunks of the default size in each segment
		c := newCluster(t, mesh(t, 2), collective.Tuning{})
		defer c.close(t)
		for _, kind := range kinds {
			for _, a := range c.algorithms(kind) {
				c.check(t, shape{kind: kind, algorithm: a, elements: n, inPlace: a%2 == 0}, false)
			}
		}
	})
}

// checkAllReduce sums small integers, for which every order of additions is exact.
func checkAllReduce(g *collective.Group, n int) error {
	b := make([]float32, n)
	for i := range b {
		b[i] = float32((i%1000 + 1) * (g.Rank() + 1))
	}
	if err := g.AllReduce(context.Background(), collective.Of(b), collective.Of(b), collective.Sum); err != nil {
		return err
	}
	sum := g.World() * (g.World() + 1) / 2
	for i, v := range b {
		if want := float32((i%1000 + 1) * sum); v != want {
			return fmt.Errorf("all-reduce of %d: element %d is %v, not %v", n, i, v, want)
		}
	}
	return nil
}

func checkBroadcast(g *collective.Group, n int) error {
	for root := range g.World() {
		want := pattern(n, root)
		b := make([]byte, n)
		if g.Rank() == root {
			copy(b, want)
		}
		if err := g.Broadcast(context.Background(), collective.Of(b), root); err != nil {
			return err
		}
		if !bytes.Equal(b, want) {
			return fmt.Errorf("broadcast of %d bytes from %d: wrong bytes", n, root)
		}
	}
	return nil
}

func checkAllGather(g *collective.Group, n int) error {
	var want []byte
	for r := range g.World() {
		want = append(want, pattern(n, r)...)
	}
	out := make([]byte, n*g.World())
	if err := g.AllGather(context.Background(), collective.Of(out), collective.Of(pattern(n, g.Rank()))); err != nil {
		return err
	}
	if !bytes.Equal(out, want) {
		return fmt.Errorf("all-gather of %d bytes: wrong bytes", n)
	}
	clear(out)
	place := out[n*g.Rank() : n*(g.Rank()+1)]
	copy(place, pattern(n, g.Rank()))
	if err := g.AllGather(context.Background(), collective.Of(out), collective.Of(place)); err != nil {
		return err
	}
	if !bytes.Equal(out, want) {
		return fmt.Errorf("all-gather of %d bytes in place: wrong bytes", n)
	}
	return nil
}

// pattern gives n bytes that tell ranks and places apart.
func pattern(n, rank int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7 + i/251 + rank*31 + 1)
	}
	return b
}

// checkEqualBits sums values whose sum depends on the order: all ranks must have used one order.
func checkEqualBits(t *testing.T, c *cluster, a collective.Algorithm) {
	const n = 1009
	sums := make([][]float32, len(c.groups))
	c.must(t, func(g *collective.Group) error {
		b := wild(n, uint64(g.Rank()), 0)
		sums[g.Rank()] = b
		v := collective.Of(b)
		return g.Do(context.Background(), &collective.Call{Kind: collective.OpAllReduce, Out: v, In: v, Algorithm: a})
	})
	for r := range sums {
		require.True(t, equalBits(sums[0], sums[r]), "%v: ranks 0 and %d have different sums", a, r)
	}
}

func equalBits(a, b []float32) bool {
	return slices.EqualFunc(a, b, func(x, y float32) bool { return math.Float32bits(x) == math.Float32bits(y) })
}

// testPointToPoint sends between all pairs at once, in both directions, messages of many lengths in order.
func testPointToPoint(t *testing.T, mesh Mesh) {
	leakFree(t)
	const world = 4
	c := newCluster(t, mesh(t, world), collective.Tuning{})
	defer c.close(t)
	ctx := context.Background()
	c.must(t, func(g *collective.Group) error {
		var wg sync.WaitGroup
		errs := make(chan error, 2*world)
		for peer := range world {
			if peer == g.Rank() {
				continue
			}
			wg.Go(func() {
				for _, n := range lengths[1:] {
					if err := g.Send(ctx, peer, pattern(n, g.Rank()*world+peer)); err != nil {
						errs <- err
						return
					}
				}
			})
			wg.Go(func() {
				for _, n := range lengths[1:] {
					b := make([]byte, n)
					if err := g.Recv(ctx, peer, b); err != nil {
						errs <- err
						return
					}
					if !bytes.Equal(b, pattern(n, peer*world+g.Rank())) {
						errs <- fmt.Errorf("wrong bytes in a message of %d from rank %d", n, peer)
					}
				}
			})
		}
		wg.Wait()
		close(errs)
		return <-errs
	})
	c.must(t, func(g *collective.Group) error { return checkAllReduce(g, 100) })
}

// testBarrier checks that no rank leaves a barrier before the last has come.
func testBarrier(t *testing.T, mesh Mesh) {
	for world := 1; world <= maxWorld; world++ {
		c := newCluster(t, mesh(t, world), collective.Tuning{})
		var arrived atomic.Int64
		c.must(t, func(g *collective.Group) error {
			for round := range 20 {
				arrived.Add(1)
				if err := g.Barrier(context.Background()); err != nil {
					return err
				}
				if n := arrived.Load(); n < int64((round+1)*world) {
					return fmt.Errorf("rank %d left barrier %d when %d of %d had come", g.Rank(), round, n-int64(round*world), world)
				}
			}
			return nil
		})
		c.close(t)
	}
}
