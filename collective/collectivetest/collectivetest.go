// Package collectivetest has the conformance suite of collective.Transport: whatever passes it carries every
// operation of a Group, keeps the bits of the tree-ordered reduction, and ends every operation when something fails.
package collectivetest

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/farandole-ml/farandole/collective"
)

// Mesh gives the transports of a new group, in rank order. What it opens beside them it closes by t.Cleanup.
type Mesh func(t testing.TB, world int) []collective.Transport

// Run runs the suite.
func Run(t *testing.T, mesh Mesh) {
	t.Run("operations", func(t *testing.T) { testOperations(t, mesh) })
	t.Run("calls", func(t *testing.T) { testCalls(t, mesh) })
	t.Run("places", func(t *testing.T) { testPlaces(t, mesh) })
	t.Run("async", func(t *testing.T) { testAsync(t, mesh) })
	t.Run("sub-groups", func(t *testing.T) { testSub(t, mesh) })
	t.Run("point to point", func(t *testing.T) { testPointToPoint(t, mesh) })
	t.Run("barrier", func(t *testing.T) { testBarrier(t, mesh) })
	t.Run("tree order", func(t *testing.T) { testTreeOrder(t, mesh) })
	t.Run("misuse", func(t *testing.T) { testMisuse(t, mesh) })
	t.Run("out of step", func(t *testing.T) { testOutOfStep(t, mesh) })
	t.Run("cancel", func(t *testing.T) { testCancel(t, mesh) })
	t.Run("abort", func(t *testing.T) { testAbort(t, mesh) })
	t.Run("close", func(t *testing.T) { testClose(t, mesh) })
}

// tunings make small buffers take every path.
var tunings = map[string]collective.Tuning{
	"default":     {},
	"many chunks": {ChunkBytes: 256, DirectBytes: -1},
	"one chunk":   {ChunkBytes: 1 << 24, DirectBytes: -1},
	"direct":      {DirectBytes: 1 << 24},
}

// point is one of the conditions under which a test runs.
type point struct {
	world  int
	name   string
	tuning collective.Tuning
}

// grid is every tuning with each world. With -short, which is how the race detector runs it, most points are left out: what
// is left still takes every operation through chunks and through the direct path.
func grid(worlds ...int) (points []point) {
	for name, tuning := range tunings {
		for _, world := range worlds {
			if !testing.Short() || world == worlds[len(worlds)/2] && (name == "many chunks" || name == "direct") {
				points = append(points, point{world, name, tuning})
			}
		}
	}
	return points
}

// cluster runs the ranks of one group as goroutines.
type cluster struct {
	groups []*collective.Group
}

func newCluster(t testing.TB, transports []collective.Transport, tuning collective.Tuning) *cluster {
	c := &cluster{}
	for r, tr := range transports {
		require.Equal(t, r, tr.Rank())
		require.Equal(t, len(transports), tr.World())
		c.groups = append(c.groups, collective.NewTuned(tr, tuning))
	}
	return c
}

// each calls f for every rank at the same time and gives the errors by rank.
func (c *cluster) each(f func(g *collective.Group) error) []error {
	errs := make([]error, len(c.groups))
	var wg sync.WaitGroup
	for r, g := range c.groups {
		wg.Go(func() { errs[r] = f(g) })
	}
	wg.Wait()
	return errs
}

// must fails the test when f fails on any rank. A rank that fails aborts, so that none waits for it.
func (c *cluster) must(t testing.TB, f func(g *collective.Group) error) {
	t.Helper()
	errs := c.each(func(g *collective.Group) error {
		err := f(g)
		if err != nil {
			g.Abort(fmt.Errorf("test failed on rank %d: %w", g.Rank(), err))
		}
		return err
	})
	for r, err := range errs {
		require.NoError(t, err, "rank %d", r)
	}
}

func (c *cluster) close(t testing.TB) {
	t.Helper()
	for r, err := range c.each((*collective.Group).Close) {
		require.NoError(t, err, "rank %d", r)
	}
}

// leakFree fails the test if goroutines that began during it outlive its cleanups.
func leakFree(t *testing.T) {
	t.Helper()
	before := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, before) })
}

// operation is a collective with arguments for one rank, to be run when its result does not matter.
type operation struct {
	name string
	run  func(ctx context.Context, g *collective.Group, elements int) error
}

var operations = []operation{
	{"all-reduce", func(ctx context.Context, g *collective.Group, n int) error {
		b := collective.Of(make([]float32, n))
		return g.AllReduce(ctx, b, b, collective.Sum)
	}},
	{"tree reduce", func(ctx context.Context, g *collective.Group, n int) error {
		out, partials, ranges, shards := treeArguments(g, n)
		return g.ReduceTree(ctx, out, partials, ranges, shards)
	}},
	{"broadcast", func(ctx context.Context, g *collective.Group, n int) error {
		return g.Broadcast(ctx, collective.Of(make([]byte, 4*n)), 0)
	}},
	{"all-gather", func(ctx context.Context, g *collective.Group, n int) error {
		return g.AllGather(ctx, collective.Of(make([]byte, 4*n*g.World())), collective.Of(make([]byte, 4*n)))
	}},
	{"barrier", func(ctx context.Context, g *collective.Group, _ int) error { return g.Barrier(ctx) }},
}
