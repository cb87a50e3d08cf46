package collective_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/farandole-ml/farandole/collective"
	"github.com/farandole-ml/farandole/collective/transport/inproc"
	"github.com/farandole-ml/farandole/elastic"
)

// inStep runs every rank's calls, and wants each rank to find out that it is out of step. A rank that waits for ever fails the test.
func inStep(t *testing.T, world int, run func(g *collective.Group) error) {
	synctest.Test(t, func(t *testing.T) {
		errs := make([]error, world)
		var wg sync.WaitGroup
		for r, tr := range inproc.New(world) {
			wg.Go(func() {
				g := collective.New(tr)
				defer g.Close()
				errs[r] = run(g)
			})
		}
		wg.Wait()
		for r, err := range errs {
			var step *collective.OutOfStepError
			require.ErrorAs(t, err, &step, "rank %d", r)
		}
	})
}

// TestOneRankAtAnotherOperation has one rank call a barrier where the others call an operation, by every algorithm.
func TestOneRankAtAnotherOperation(t *testing.T) {
	const world, n = 5, 40_000 // too long for a single round
	for kind := collective.OpAllReduce; len(kind.Algorithms()) > 0; kind++ {
		for _, a := range kind.Algorithms() {
			for odd := range world {
				if kind == collective.OpBarrier || a == collective.Shared {
					continue
				}
				t.Run(fmt.Sprintf("%v/%v/rank %d", kind, a, odd), func(t *testing.T) {
					inStep(t, world, func(g *collective.Group) error {
						c := collective.Call{Kind: collective.OpBarrier}
						if g.Rank() != odd {
							c = callOf(kind, g, n)
							c.Algorithm = a
						}
						if err := g.Do(context.Background(), &c); err != nil {
							return err
						}
						return g.Barrier(context.Background()) // its part may have been done before anyone knew
					})
				})
			}
		}
	}
}

// callOf is an operation on n elements for every rank.
func callOf(kind collective.OpKind, g *collective.Group, n int) collective.Call {
	all, part := collective.Of(make([]float32, n)), collective.Of(make([]float32, n/g.World()))
	c := collective.Call{Kind: kind, Out: all, In: all}
	switch kind {
	case collective.OpReduceScatter:
		c.Out = part
	case collective.OpAllGather:
		c.In = part
	case collective.OpReduceTree:
		c.Shards, c.Ranges = g.World(), elastic.Assign(g.World(), g.World())
		c.Partials = []collective.Partial{{Node: c.Ranges[g.Rank()], Data: make([]float32, n)}}
	}
	return c
}

// TestGroupsInAnotherOrder has ranks call a group and its sub-groups in different orders, by an algorithm in which a rank hears of its neighbour alone.
func TestGroupsInAnotherOrder(t *testing.T) {
	for _, c := range []struct {
		name   string
		subs   [][]int // groups 1, 2, … of the six ranks; 0 is that of all
		before []int   // groups that all call, each before the sub-groups after it are formed
		calls  map[int][]int
		others []int // what the ranks call that calls does not name
	}{
		{"a pair", [][]int{{1, 3}}, nil, map[int][]int{1: {1, 0}}, []int{0, 1}},
		{"a pair turned around", [][]int{{3, 1}}, nil, map[int][]int{1: {1, 0}}, []int{0, 1}},
		{"three in another order", [][]int{{1, 5, 3}}, nil, map[int][]int{1: {1, 0}}, []int{0, 1}},
		{"the same ranks twice", [][]int{{0, 1, 2, 3, 4, 5}, {0, 1, 2, 3, 4, 5}}, nil, map[int][]int{2: {1, 2}}, []int{2, 1}},
		{"formed after another", [][]int{{1, 2, 3, 4}, {2, 4}}, []int{0}, map[int][]int{2: {2, 0}}, []int{0, 2}},
		{"one in another", [][]int{{0, 1, 2, 3, 4}, {1, 3}}, nil, map[int][]int{3: {2, 1, 0}}, []int{1, 2, 0}},
		{"two that overlap", [][]int{{0, 1, 2, 3}, {1, 3, 4, 5}}, nil, map[int][]int{1: {2, 1}, 3: {1, 2}}, []int{1, 2, 0}},
	} {
		t.Run(c.name, func(t *testing.T) {
			inStep(t, 6, func(all *collective.Group) error {
				groups := []*collective.Group{all}
				call := func(i int) error {
					if groups[i] == nil {
						return nil
					}
					op := callOf(collective.OpAllReduce, groups[i], 40_000)
					op.Algorithm = collective.Ring
					return groups[i].Do(context.Background(), &op)
				}
				for i, ranks := range c.subs {
					sub, err := all.Sub(ranks)
					if err != nil {
						return err
					}
					if groups = append(groups, sub); i < len(c.before) {
						if err := call(c.before[i]); err != nil {
							return err
						}
					}
				}
				order, ok := c.calls[all.Rank()]
				if !ok {
					order = slices.Clone(c.others)
				}
				for range 3 {
					for _, i := range order {
						if err := call(i); err != nil {
							return err
						}
					}
				}
				return all.Barrier(context.Background())
			})
		})
	}
}
