package outer_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/farandole-ml/farandole/collective"
	"github.com/farandole-ml/farandole/collective/collectivetest"
	"github.com/farandole-ml/farandole/collective/outer"
	"github.com/farandole-ml/farandole/collective/transport/inproc"
	"github.com/farandole-ml/farandole/collective/transport/uds"
	"github.com/farandole-ml/farandole/elastic"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func overSockets(t testing.TB, world int) []collective.Transport {
	return collectivetest.Form(t, world, func(int) (*uds.Listener, error) { return uds.Listen("", uds.Config{}) })
}

// regression is logistic regression on points of two classes; every replica sees its own part of them.
type regression struct {
	points [][]float32 // the last coordinate is 1
	labels []float32   // ±1
}

const dimensions = 9

func newRegression(points int) *regression {
	rng := rand.New(rand.NewPCG(7, 7))
	p := &regression{}
	truth := make([]float64, dimensions)
	for i := range truth {
		truth[i] = rng.NormFloat64()
	}
	for range points {
		x, s := make([]float32, dimensions), 0.3*rng.NormFloat64()
		for i := range x {
			x[i] = float32(rng.NormFloat64())
			if i == dimensions-1 {
				x[i] = 1
			}
			s += truth[i] * float64(x[i])
		}
		p.points = append(p.points, x)
		p.labels = append(p.labels, float32(math.Copysign(1, s)))
	}
	return p
}

// parameters are two tensors, so that the cuts between them matter.
func parameters() outer.Replica {
	return outer.Replica{make([]float32, 4), make([]float32, dimensions-4)}
}

func weight(r outer.Replica, i int) *float32 {
	if i < len(r[0]) {
		return &r[0][i]
	}
	return &r[1][i-len(r[0])]
}

func (p *regression) margin(r outer.Replica, k int) float64 {
	s := 0.0
	for i, x := range p.points[k] {
		s += float64(*weight(r, i)) * float64(x)
	}
	return s * float64(p.labels[k])
}

// loss is over all points.
func (p *regression) loss(r outer.Replica) float64 {
	sum := 0.0
	for k := range p.points {
		sum += math.Log1p(math.Exp(-p.margin(r, k)))
	}
	return sum / float64(len(p.points))
}

// step is an inner step of replica number i of n: a few of its points, by plain gradient descent.
func (p *regression) step(r outer.Replica, i, n, step int) {
	const batch, rate = 8, 0.05
	share := len(p.points) / n
	for b := range batch {
		k := i*share + (step*batch+b)%share
		slope := float32(-1 / (1 + math.Exp(p.margin(r, k))))
		for j, x := range p.points[k] {
			*weight(r, j) -= rate / batch * slope * p.labels[k] * x
		}
	}
}

// training is a run with all its ranks.
type training struct {
	problem  *regression
	cfg      outer.Config
	replicas []outer.Replica // all, by number
	outers   []*outer.Optimizer
	groups   []*collective.Group
	steps    int
}

func newTraining(t testing.TB, transports []collective.Transport, cfg outer.Config) *training {
	run := &training{problem: newRegression(800), cfg: cfg}
	n := cfg.Replicas
	if n == 0 {
		n = len(transports)
	}
	for range n {
		run.replicas = append(run.replicas, parameters())
	}
	for r, own := range elastic.Assign(n, len(transports)) {
		o, err := outer.New(run.replicas[own.First:own.End], cfg)
		require.NoError(t, err)
		run.outers = append(run.outers, o)
		g := collective.New(transports[r])
		t.Cleanup(func() { require.NoError(t, g.Close()) })
		run.groups = append(run.groups, g)
	}
	return run
}

// inner takes one inner step of all replicas, outer asks all ranks for an outer step.
func (run *training) inner() {
	for i, r := range run.replicas {
		run.problem.step(r, i, len(run.replicas), run.steps)
	}
	run.steps++
}

func (run *training) outer() ([]bool, []error) {
	synced, errs := make([]bool, len(run.groups)), make([]error, len(run.groups))
	var wg sync.WaitGroup
	for r, g := range run.groups {
		wg.Go(func() { synced[r], errs[r] = run.outers[r].Step(context.Background(), g) })
	}
	wg.Wait()
	return synced, errs
}

func (run *training) train(t testing.TB, steps int) {
	t.Helper()
	for range steps {
		run.inner()
		synced, errs := run.outer()
		for r := range synced {
			require.NoError(t, errs[r])
			require.Equal(t, run.steps%run.cfg.Every == 0, synced[r])
		}
	}
}

// bits are all replicas' parameters and all ranks' states.
func (run *training) bits() []uint32 {
	var all []uint32
	for _, tensor := range slices.Concat(run.replicas...) {
		for _, x := range tensor {
			all = append(all, math.Float32bits(x))
		}
	}
	return all
}

func TestConverges(t *testing.T) {
	const steps, every = 1200, 20
	run := newTraining(t, inproc.New(4), outer.Config{Every: every})
	before := run.problem.loss(run.replicas[0])
	run.train(t, steps)
	for _, r := range run.replicas[1:] {
		require.Equal(t, run.replicas[0], r, "after an outer step all replicas are equal")
	}
	after := run.problem.loss(run.replicas[0])
	// One replica with a quarter of the data, and no one to talk to.
	alone := parameters()
	for s := range steps {
		run.problem.step(alone, 0, 4, s)
	}
	t.Logf("loss %.4f at first, %.4f with %d outer steps, %.4f alone", before, after, steps/every, run.problem.loss(alone))
	require.Less(t, after, before/3)
	require.Less(t, after, run.problem.loss(alone))
	require.Equal(t, steps/every, run.outers[0].State().Rounds)
}

// TestEqualBits is the package's promise.
func TestEqualBits(t *testing.T) {
	cfg := outer.Config{Every: 5, Replicas: 8}
	var want []uint32
	for name, mesh := range map[string]func(world int) []collective.Transport{
		"in process":  inproc.New,
		"again":       inproc.New,
		"by a socket": func(world int) []collective.Transport { return overSockets(t, world) },
	} {
		for _, world := range []int{1, 2, 3, 4, 5, 8} {
			run := newTraining(t, mesh(world), cfg)
			run.train(t, 23) // ends between outer steps
			if want == nil {
				want = run.bits()
			}
			require.Equal(t, want, run.bits(), "%s, %d ranks", name, world)
			for r, o := range run.outers {
				require.Equal(t, run.outers[0].State(), o.State(), "rank %d", r)
				require.Equal(t, 3, o.State().Steps)
			}
		}
	}
}

// TestPlainAverage: without momentum, at rate 1 and after every step, the outer step is the mean of the replicas.
func TestPlainAverage(t *testing.T) {
	const world = 4
	run := newTraining(t, inproc.New(world), outer.Config{Every: 1, LR: 1, Momentum: -1})
	rng := rand.New(rand.NewPCG(1, 1))
	for range 5 {
		mean := make([]float32, dimensions)
		for _, r := range run.replicas {
			for i := range mean {
				*weight(r, i) = float32(rng.IntN(1 << 12)) // sums and differences are exact
				mean[i] += *weight(r, i) / world
			}
		}
		_, errs := run.outer()
		require.NoError(t, errors.Join(errs...))
		for _, r := range run.replicas {
			require.Equal(t, mean, slices.Concat(r...))
		}
	}
}

// TestNesterov follows the definition by hand for one value.
func TestNesterov(t *testing.T) {
	g := collective.New(inproc.New(1)[0])
	defer g.Close()
	x := []float32{8}
	o, err := outer.New([]outer.Replica{{x}}, outer.Config{Every: 1, LR: 0.5, Momentum: 0.5})
	require.NoError(t, err)
	for _, want := range []float32{5, 1.5} {
		x[0] -= 4 // Δ = 4; v = 4, then 6
		synced, err := o.Step(t.Context(), g)
		require.NoError(t, err)
		require.True(t, synced)
		require.Equal(t, want, x[0])
	}
	require.Equal(t, outer.State{Rounds: 2, Reference: []float32{1.5}, Momentum: []float32{6}}, o.State())
}

// TestCheckpoint goes on from saved state with another number of ranks.
func TestCheckpoint(t *testing.T) {
	cfg := outer.Config{Every: 4, Replicas: 6}
	want := newTraining(t, inproc.New(3), cfg)
	want.train(t, 10)
	resumed := newTraining(t, inproc.New(2), cfg)
	saved := want.outers[1].State()
	for i, r := range want.replicas {
		for k, tensor := range r {
			copy(resumed.replicas[i][k], tensor)
		}
	}
	for _, o := range resumed.outers {
		require.NoError(t, o.SetState(saved))
	}
	resumed.steps = want.steps
	want.train(t, 10)
	resumed.train(t, 10)
	require.Equal(t, want.bits(), resumed.bits())

	saved.Steps = 4
	require.Error(t, resumed.outers[0].SetState(saved))
	require.Error(t, resumed.outers[0].SetState(outer.State{Momentum: saved.Momentum}))
}

// TestFailure: an outer step that fails changes nothing and is taken again by the next group.
func TestFailure(t *testing.T) {
	cfg := outer.Config{Every: 2, Replicas: 4}
	undisturbed, run := newTraining(t, inproc.New(2), cfg), newTraining(t, inproc.New(2), cfg)
	undisturbed.train(t, 6)
	run.train(t, 5)
	run.inner()
	before, state := run.bits(), run.outers[0].State().Rounds
	for _, g := range run.groups {
		g.Abort(collective.ErrGenerationChanged)
	}
	synced, errs := run.outer()
	for r := range synced {
		require.False(t, synced[r])
		require.ErrorIs(t, errs[r], collective.ErrGenerationChanged)
	}
	require.Equal(t, before, run.bits())
	require.Equal(t, state, run.outers[0].State().Rounds)
	// The rank that is left takes over all replicas.
	run.groups = []*collective.Group{collective.New(inproc.New(1)[0])}
	defer run.groups[0].Close()
	run.outers = run.outers[:1]
	require.NoError(t, run.outers[0].SetReplicas(run.replicas))
	synced, errs = run.outer()
	require.NoError(t, errs[0])
	require.True(t, synced[0])
	require.Equal(t, undisturbed.bits(), run.bits())
}

// TestSync brings in a rank that knows nothing.
func TestSync(t *testing.T) {
	cfg := outer.Config{Every: 3}
	run := newTraining(t, inproc.New(2), cfg)
	run.train(t, 7)
	joined := newTraining(t, inproc.New(3), cfg)
	joined.steps = run.steps
	for r, o := range run.outers {
		require.NoError(t, joined.outers[r+1].SetState(o.State()))
	}
	errs := make([]error, 3)
	var wg sync.WaitGroup
	for r, g := range joined.groups {
		wg.Go(func() { errs[r] = joined.outers[r].Sync(context.Background(), g, 1) })
	}
	wg.Wait()
	require.NoError(t, errors.Join(errs...))
	for r, o := range joined.outers {
		require.Equal(t, run.outers[0].State().Reference, o.State().Reference)
		require.Equal(t, run.outers[0].State().Momentum, o.State().Momentum)
		require.Equal(t, 2, o.State().Rounds)
		require.Equal(t, o.State().Reference, slices.Concat(joined.replicas[r]...))
	}
}

func TestMisuse(t *testing.T) {
	for _, cfg := range []outer.Config{{Every: -1}, {LR: -1}, {LR: float32(math.NaN())}, {Momentum: 1}, {Replicas: -1}} {
		_, err := outer.New([]outer.Replica{parameters()}, cfg)
		require.Error(t, err, fmt.Sprint(cfg))
	}
	_, err := outer.New(nil, outer.Config{})
	require.ErrorContains(t, err, "without a replica")
	for _, other := range []outer.Replica{{make([]float32, 4)}, {make([]float32, 5), make([]float32, 4)}, nil} {
		_, err = outer.New([]outer.Replica{parameters(), other}, outer.Config{})
		require.ErrorContains(t, err, "replica 1")
	}
	for name, cfg := range map[string]outer.Config{
		"has 1 replicas, must have number": {Every: 1, Replicas: 4},
		"every rank must own one":          {Every: 1, Replicas: 1},
	} {
		run := newTraining(t, inproc.New(2)[:1], outer.Config{Every: 1, Replicas: 1})
		run.outers[0], err = outer.New(run.replicas, cfg)
		require.NoError(t, err)
		_, errs := run.outer()
		require.ErrorContains(t, errs[0], name)
		require.Error(t, run.groups[0].Barrier(t.Context()), "the group is dead, so that no peer waits")
	}
}

func TestDoesNotAllocate(t *testing.T) {
	run := newTraining(t, inproc.New(1), outer.Config{Every: 2, Replicas: 3})
	o, g := run.outers[0], run.groups[0]
	var err error
	step := func() { _, err = o.Step(context.Background(), g) }
	step()
	step()
	require.Zero(t, testing.AllocsPerRun(20, step))
	require.NoError(t, err)
	require.Equal(t, 11, o.State().Rounds)
}
