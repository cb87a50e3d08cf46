//go:build cuda

package cuda

import (
	"log/slog"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/farandole-ml/farandole/kernels"
	"github.com/farandole-ml/farandole/kernels/nn"
)

// trained gives the weights after a few steps with other tokens, another scale of the loss and another learning rate each; and values that
// a sequence of updates made.
func trained(t *testing.T, d *device) []float32 {
	t.Helper()
	x, err := d.Alloc(5)
	require.NoError(t, err)
	g, m, v := uploaded(t, d, 1, -2, 3, -4, 5), uploaded(t, d, 0, 0, 0, 0, 0), uploaded(t, d, 0, 0, 0, 0, 0)
	model, err := nn.NewGPT(d, nn.GPTConfig{Vocab: 50, Context: 8, Layers: 2, Heads: 2, Width: 32})
	require.NoError(t, err)
	model.Init(3)
	optim, err := nn.NewAdamW(d, model, nn.Hyper{Schedule: nn.Schedule{Peak: 0.01, Warmup: 2, Steps: 8}})
	require.NoError(t, err)
	for step := range 8 {
		d.Zero(model.GradBuffer())
		for shard := range 2 {
			require.NoError(t, model.Forward(model.RandomBatch(2, 8, uint64(10*step+shard)), 1/float32(step+2)))
			model.Backward()
			_, err := model.Loss()
			require.NoError(t, err)
		}
		_, err := optim.Update(int64(step + 1))
		require.NoError(t, err)
		for range graphLeast {
			d.AdamW(x, g, m, v, 1, kernels.AdamW{LR: 1 / float32(step+1), Beta1: 0.9, Beta2: 0.95, Eps: 1e-8, Step: int64(step + 1)})
		}
		require.NoError(t, d.Sync())
	}
	n := model.ParamBuffer().Len()
	weights := make([]float32, n+x.Len())
	require.NoError(t, d.Download(weights[:n], model.ParamBuffer()))
	require.NoError(t, d.Download(weights[n:], x))
	return weights
}

// made are the graphs that can be launched.
func (s *graphs) made() (n int) {
	for _, g := range s.kept {
		if len(g.nodes) > 0 {
			n++
		}
	}
	return n
}

func withoutGraphs(t *testing.T, variable, value string) *device {
	t.Setenv(variable, value)
	return newDevice(t)
}

func TestGraphsGiveTheSameBits(t *testing.T) {
	off := withoutGraphs(t, "FARANDOLE_CUDA_GRAPHS", "0")
	want := trained(t, off)
	require.Zero(t, off.graphs.made())
	off = withoutGraphs(t, "CUDA_LAUNCH_BLOCKING", "1")
	t.Setenv("FARANDOLE_CUDA_GRAPHS", "")
	require.Equal(t, want, trained(t, off))
	require.Zero(t, off.graphs.made())

	t.Setenv("CUDA_LAUNCH_BLOCKING", "")
	d := newDevice(t)
	require.Equal(t, want, trained(t, d))
	require.GreaterOrEqual(t, d.graphs.made(), 2, "a shard's and the update's")
}

// TestLazyGraphsGiveTheSameBits: what is set for a launch does not reach those that were enqueued before.
func TestLazyGraphsGiveTheSameBits(t *testing.T) {
	if !emulated(t, "LAZY=1") {
		return
	}
	want := trained(t, withoutGraphs(t, "FARANDOLE_CUDA_GRAPHS", "0"))
	t.Setenv("FARANDOLE_CUDA_GRAPHS", "")
	d := newDevice(t)
	require.Equal(t, want, trained(t, d))

	x := uploaded(t, d, 1)
	for i := range 6 { // one launch after the other, with no wait
		for range graphLeast {
			d.Scale(x, float32(1+i%2))
		}
		d.flush()
	}
	got := make([]float32, 1)
	require.NoError(t, d.Download(got, x))
	require.Equal(t, float32(1<<(3*graphLeast)), got[0])
}

// TestGraphsWithMemoryThatWent: between two launches all memory that is free goes back to the driver, so that kept graphs name what is no more.
func TestGraphsWithMemoryThatWent(t *testing.T) {
	d := newDevice(t)
	const n = 5000
	for round := range 6 {
		at, err := d.take(sizeClass(4 * n))
		require.NoError(t, err)
		x := &buffer{&memory{d, at}, 0, n}
		d.Upload(x, counted(n))
		for range graphLeast {
			d.Scale(x, -2)
		}
		got := make([]float32, n)
		require.NoError(t, d.Download(got, x))
		require.Equal(t, float32(3<<graphLeast), got[3], "round %d", round)
		d.pool.give(sizeClass(4*n), at)
		require.NoError(t, d.do(func() error { return release(d.pool.idle()) }))
	}
	require.Positive(t, d.graphs.made())
}

// TestGraphsAreFew: the sequence that was not used for the longest time goes.
func TestGraphsAreFew(t *testing.T) {
	d := newDevice(t)
	x := uploaded(t, d, 1)
	require.NoError(t, d.Sync())
	play := func(n int) *graph {
		for range n {
			d.Scale(x, 1)
		}
		d.flush()
		require.NoError(t, d.Sync())
		for _, g := range d.graphs.kept {
			if g.n == n {
				return g
			}
		}
		return nil
	}
	require.Nil(t, play(graphLeast-1))
	first := play(graphLeast)
	require.Empty(t, first.nodes)
	play(graphLeast)
	require.Len(t, first.nodes, graphLeast)
	second := play(graphLeast + 1)
	for i := range graphsKept - 2 {
		play(graphLeast + 2 + i)
	}
	require.Len(t, d.graphs.kept, graphsKept)
	require.Same(t, first, play(graphLeast), "used again")
	next := play(graphLeast + graphsKept)
	require.Same(t, second, next, "in its place")
	require.Len(t, first.nodes, graphLeast)
	for i := range graphsKept {
		play(2*graphsKept + i)
	}
	require.Zero(t, d.graphs.made(), "what can no more be launched is freed")
	require.Len(t, d.graphs.kept, graphsKept)
}

// TestNoGraphs: where the driver refuses graphs, all goes on without.
func TestNoGraphs(t *testing.T) {
	if !emulated(t, "GRAPHS=0") {
		return
	}
	want := trained(t, withoutGraphs(t, "FARANDOLE_CUDA_GRAPHS", "0"))
	t.Setenv("FARANDOLE_CUDA_GRAPHS", "")
	var log strings.Builder
	d := opened(t, kernels.Config{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	require.Equal(t, want, trained(t, d))
	require.Equal(t, 1, strings.Count(log.String(), "the driver makes no CUDA graph"), log.String())
}

// scales enqueues as many launches as a graph has at least.
func scales(d *device, x kernels.Buffer) error {
	for range graphLeast {
		d.Scale(x, 2)
	}
	return d.Sync()
}

func TestGraphThatFails(t *testing.T) {
	if !emulated(t, "FAIL=0:19") { // the third of the third eight
		return
	}
	d := newDevice(t)
	x := uploaded(t, d, 1)
	require.NoError(t, d.Sync())
	require.NoError(t, scales(d, x))
	require.NoError(t, scales(d, x))
	require.Equal(t, 1, d.graphs.made())
	require.Error(t, scales(d, x))
	requireFailed(t, d, x, "unspecified launch failure (CUDA error 719), in one of 8 operations up to this one", "CUDA_LAUNCH_BLOCKING=1")
}

func TestGraphOnALostGPU(t *testing.T) {
	if !emulated(t, "LOSE=0:20") {
		return
	}
	d := newDevice(t)
	x := uploaded(t, d, 1)
	require.NoError(t, d.Sync())
	require.NoError(t, scales(d, x))
	require.NoError(t, scales(d, x))
	require.Error(t, scales(d, x))
	requireFailed(t, d, x, "unavailable", "CUDA_LAUNCH_BLOCKING=1")
}

// TestEmulatorRefusesBadGraphs: changes of a graph that a driver leaves undefined, or takes.
func TestEmulatorRefusesBadGraphs(t *testing.T) {
	needEmulator(t)
	d := newDevice(t)
	x := uploaded(t, d, 1, 2, 3, 4)
	require.NoError(t, d.Sync())
	enqueue := func() {
		d.Zero(x)
		d.Copy(x.Slice(0, 2), x.Slice(2, 2))
		for range graphLeast - 2 {
			d.Scale(x, 2)
		}
	}
	for range 2 {
		enqueue()
		require.NoError(t, d.Sync())
	}
	require.Equal(t, 1, d.graphs.made())
	var g *graph
	for _, k := range d.graphs.kept {
		if len(k.nodes) > 0 {
			g = k
		}
	}
	try := func(i int, change func(c *call)) error {
		old := g.calls[i]
		defer func() { g.calls[i] = old }()
		change(&g.calls[i])
		return d.do(func() error { return d.node(g, i) })
	}
	require.NoError(t, try(2, func(*call) {}))
	require.Error(t, try(2, func(c *call) { c.kernel = kReLU }), "another kernel")
	require.Error(t, try(2, func(c *call) { c.grid.x++ }), "another grid")
	require.Error(t, try(0, func(c *call) { c.args[1]++ }), "more zeros")
	require.Error(t, try(1, func(c *call) { c.args[2]-- }), "fewer bytes")
	require.Error(t, try(1, func(c *call) { c.action, c.n = fillZeros, 2 }), "zeros in the place of a copy")
	g.nodes[3], g.nodes[0] = g.nodes[0], g.nodes[3]
	require.Error(t, try(3, func(*call) {}), "another node")
	g.nodes[3], g.nodes[0] = g.nodes[0], g.nodes[3]

	require.NoError(t, try(1, func(c *call) { c.args[0] = 64 }), "memory that is nowhere is seen at the launch")
	enqueue()
	require.Error(t, d.Sync())
}
