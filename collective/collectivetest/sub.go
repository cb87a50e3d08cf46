package collectivetest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/farandole-ml/farandole/collective"
)

// testSub runs operations on parts of a group.
func testSub(t *testing.T, mesh Mesh) {
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	runOn := func(g *collective.Group, s shape) error {
		if g == nil {
			return nil
		}
		return s.run(g, func(call *collective.Call) error { return g.Do(ctx, call) }, false)
	}
	t.Run("results", func(t *testing.T) {
		leakFree(t)
		const world = 6
		c := newCluster(t, mesh(t, world), tunings["many chunks"])
		defer c.close(t)
		parts := [][]int{{0, 1, 2}, {3, 4, 5}, {5, 3, 1}, {4}, {2, 1, 0}, {0, 1, 2, 3, 4, 5}}
		c.must(t, func(g *collective.Group) error {
			rng := rand.New(rand.NewPCG(3, 3))
			for range 3 {
				for _, ranks := range parts {
					sub, err := g.Sub(ranks)
					if err != nil {
						return err
					}
					if (sub != nil) != slices.Contains(ranks, g.Rank()) {
						return fmt.Errorf("rank %d: the sub-group of %v is %v", g.Rank(), ranks, sub)
					}
					if sub != nil && (ranks[sub.Rank()] != g.Rank() || sub.World() != len(ranks)) {
						return fmt.Errorf("rank %d is %d of %d in %v", g.Rank(), sub.Rank(), sub.World(), ranks)
					}
					for _, kind := range kinds {
						s := shape{kind: kind}.draw(rng, len(ranks))
						if err := runOn(sub, s); err != nil {
							return err
						}
						if err := runOn(g, shape{kind: kind}.draw(rng, world)); err != nil {
							return err
						}
					}
					if sub != nil {
						if err := sub.Close(); err != nil { // leaves the others alone
							return err
						}
					}
				}
			}
			return nil
		})
	})
	t.Run("of a sub-group", func(t *testing.T) {
		c := newCluster(t, mesh(t, 5), collective.Tuning{})
		defer c.close(t)
		c.must(t, func(g *collective.Group) error {
			sub, err := g.Sub([]int{4, 2, 0})
			if err != nil || sub == nil {
				return err
			}
			subsub, err := sub.Sub([]int{2, 0})
			if err != nil || subsub == nil {
				return err
			}
			peer := 1 - subsub.Rank()
			if subsub.Rank() == 0 {
				err = subsub.Send(ctx, peer, []byte{7})
			} else {
				err = subsub.Recv(ctx, peer, make([]byte, 1))
			}
			return errors.Join(err, runOn(subsub, shape{kind: collective.OpAllReduce, elements: 9}))
		})
	})
	t.Run("misuse", func(t *testing.T) {
		c := newCluster(t, mesh(t, 2), collective.Tuning{})
		defer c.close(t)
		for _, ranks := range [][]int{nil, {2}, {-1}, {0, 0}} {
			_, err := c.groups[0].Sub(ranks)
			require.ErrorIs(t, err, collective.ErrMisuse)
		}
		c.must(t, func(g *collective.Group) error { return g.Barrier(ctx) })
	})
	// Ranks 1 and 3 of all: one calls the whole group first, the other the part.
	for _, ranks := range [][]int{{1, 3}, {3, 1}, {1, 3, 5}, {0, 2, 1, 3}, {5, 4, 3, 2, 1, 0}} {
		t.Run(fmt.Sprintf("order/%v", ranks), func(t *testing.T) {
			leakFree(t)
			c := newCluster(t, mesh(t, 6), collective.Tuning{})
			defer c.close(t)
			errs := c.each(func(g *collective.Group) error {
				sub, err := g.Sub(ranks)
				if err != nil {
					return err
				}
				s := shape{kind: collective.OpAllReduce, elements: 100}
				first, second := g, sub
				if g.Rank() == 1 {
					first, second = sub, g
				}
				for {
					if err := errors.Join(runOn(first, s), runOn(second, s)); err != nil {
						return err
					}
				}
			})
			for r, err := range errs {
				var step *collective.OutOfStepError
				require.ErrorAs(t, err, &step, "rank %d", r)
			}
		})
	}
}
