package worker

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/farandole-ml/farandole/collective"
	"github.com/farandole-ml/farandole/elastic"
)

// dieAt makes a worker die, as by kill -9, where a fault hits.
func dieAt(c *fakeCoordinator, f Fault) func(*Config, *proc) {
	return func(_ *Config, p *proc) {
		if p.s == nil {
			return
		}
		var struck atomic.Bool
		p.s.inject = func(point string, step elastic.Step, rank int) bool {
			if f.hits(point, step, rank) && struck.CompareAndSwap(false, true) {
				p.kill()
				c.feed(elastic.Lost{ID: p.id, Reason: "killed at " + point})
			}
			return false
		}
	}
}

// TestCrashAtEachPoint kills one of three workers at each point of the protocol; a fresh one takes its place.
func TestCrashAtEachPoint(t *testing.T) {
	const steps, shards = 30, 8
	want := alone(t, newLinear(steps, shards))
	for _, point := range []string{PointGradients, PointReduce, PointReduced, PointApplied} {
		for victim := range 3 {
			t.Run(fmt.Sprintf("%s of worker %d", point, victim), func(t *testing.T) {
				c := newCoordinator(t, elastic.Policy{Min: 2, Start: 3})
				var procs []*proc
				g := gate{15, make(chan struct{})}
				for i := range 3 {
					var change func(*Config, *proc)
					if i == victim {
						change = dieAt(c, Fault{Point: point, Step: elastic.Step(5 + victim), Rank: -1})
					}
					procs = append(procs, launch(c, i, gated(steps, shards, g), change))
				}
				require.ErrorIs(t, procs[victim].wait(), errKilled)
				procs[victim] = launch(c, 3, newLinear(steps, shards), nil)
				c.until("three again", func() bool { return c.views[len(c.views)-1].RankOf("w3") >= 0 })
				close(g.open)
				requireSame(c, want, procs...)
			})
		}
	}
}

// TestCrashInViewChange kills a second worker while the loss of the first is being dealt with.
func TestCrashInViewChange(t *testing.T) {
	const steps, shards = 30, 8
	want := alone(t, newLinear(steps, shards))
	for _, point := range []string{PointPrepare, PointForming, PointSync} {
		t.Run(point, func(t *testing.T) {
			c := newCoordinator(t, elastic.Policy{Min: 2, Start: 4})
			procs := make([]*proc, 4)
			for i := range procs {
				var change func(*Config, *proc)
				switch i {
				case 1:
					change = dieAt(c, Fault{Point: PointReduce, Step: 7, Rank: -1})
				case 2:
					change = dieAt(c, Fault{Point: point, Step: 4, Rank: -1})
				}
				procs[i] = launch(c, i, newLinear(steps, shards), change)
			}
			require.ErrorIs(t, procs[1].wait(), errKilled)
			require.ErrorIs(t, procs[2].wait(), errKilled)
			requireSame(c, want, procs[0], procs[3])
		})
	}
}

// TestRandomKills kills and adds workers at random steps and points.
func TestRandomKills(t *testing.T) {
	const steps, shards, victims = 60, 6, 4
	want := alone(t, newLinear(steps, shards))
	points := []string{PointGradients, PointReduce, PointReduced, PointApplied, PointPrepare, PointForming, PointSync}
	for seed := range uint64(8) {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 1))
			c := newCoordinator(t, elastic.Policy{Min: 1, Start: 2})
			// Two that nobody kills hold the state, and hold training until each wave of others is in a view.
			waves := []gate{{2, make(chan struct{})}, {30, make(chan struct{})}}
			keeper := func(i int) *proc {
				l := newLinear(steps, shards)
				l.before = func(ctx context.Context, s elastic.Shard) error {
					return errors.Join(waves[0].before(ctx, s), waves[1].before(ctx, s))
				}
				return launch(c, i, l, nil)
			}
			procs := []*proc{keeper(0), keeper(1)}
			for _, w := range waves {
				c.atStep(w.upTo, "w0", "w1")
				for range victims / len(waves) {
					f := Fault{Point: points[r.IntN(len(points))], Step: w.upTo + elastic.Step(r.IntN(20)), Rank: -1}
					procs = append(procs, launch(c, len(procs), newLinear(steps, shards), dieAt(c, f)))
				}
				last := procs[len(procs)-1].id
				c.until("the wave is in a view", func() bool {
					return slices.ContainsFunc(c.views, func(v *elastic.View) bool { return v.RankOf(last) >= 0 })
				})
				close(w.open)
			}
			requireSame(c, want, procs[:2]...)
			killed := 0
			for _, p := range procs[2:] {
				if err := p.wait(); errors.Is(err, errKilled) {
					killed++
				}
			}
			t.Logf("%d of %d were killed in %d views", killed, victims, len(c.viewsSoFar()))
		})
	}
}

// gate lets steps up to a bound run and holds what comes after, until it is opened or its generation ends.
type gate struct {
	upTo elastic.Step
	open chan struct{}
}

func (g gate) before(ctx context.Context, s elastic.Shard) error {
	if s.Step <= g.upTo {
		return nil
	}
	select {
	case <-g.open:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func gated(steps, shards int, g gate) *linear {
	l := newLinear(steps, shards)
	l.before = g.before
	return l
}

// atStep waits until a worker applied step.
func (c *fakeCoordinator) atStep(step elastic.Step, ids ...elastic.MemberID) {
	c.t.Helper()
	c.until(fmt.Sprintf("%v at step %d", ids, step), func() bool {
		for _, id := range ids {
			if c.applied[id] < step {
				return false
			}
		}
		return true
	})
}

// TestLaggardGetsReducedGradient cuts off one worker a step before the others, who go one step further; it comes back and
// is sent that step's reduced gradient.
func TestLaggardGetsReducedGradient(t *testing.T) {
	const steps, shards = 20, 8
	want := alone(t, newLinear(steps, shards))
	c := newCoordinator(t, elastic.Policy{Min: 2, Start: 3})
	g := gate{9, make(chan struct{})}
	procs := []*proc{launch(c, 0, gated(steps, shards, g), nil), launch(c, 1, gated(steps, shards, g), nil)}
	cut, rejoin := make(chan struct{}), make(chan struct{})
	procs = append(procs, launch(c, 2, newLinear(steps, shards), func(_ *Config, p *proc) {
		if p.s == nil {
			return
		}
		p.s.inject = func(point string, step elastic.Step, _ int) bool {
			if point == PointReduce && step == 9 {
				select {
				case <-cut:
				default:
					close(cut)
					c.feed(elastic.Lost{ID: p.id, Reason: "cut off"})
					p.until(func() bool { return p.s.pos.gen == nil })
				}
			}
			return false
		}
		// Evicted, it comes back only once the others are a step further.
		p.s.holdHello = func() { <-cut; <-rejoin }
	}))
	<-cut
	c.atStep(9, "w0", "w1")
	close(rejoin)
	c.until("a view of three again", func() bool { return len(c.views) > 1 && c.world() == 3 })
	views := c.viewsSoFar()
	v := views[len(views)-1]
	plan := v.Sync[v.RankOf("w2")]
	require.Equal(t, elastic.SyncReduced, plan.Kind)
	close(g.open)
	requireSame(c, want, procs...)
	require.Zero(t, procs[2].s.Counters().Recoveries, "no state moved")
	require.Equal(t, int64(steps), procs[2].s.Counters().Steps)
}

// TestJoinerGetsStateFromTwo adds a worker to a group of two in the middle of training.
func TestJoinerGetsStateFromTwo(t *testing.T) {
	const steps, shards = 20, 8
	want := alone(t, newLinear(steps, shards))
	c := newCoordinator(t, elastic.Policy{Min: 2})
	g := gate{9, make(chan struct{})}
	procs := []*proc{launch(c, 0, gated(steps, shards, g), nil), launch(c, 1, gated(steps, shards, g), nil)}
	c.atStep(9, "w0", "w1")
	procs = append(procs, launch(c, 2, newLinear(steps, shards), nil))
	c.until("a view of three", func() bool { return c.world() == 3 })
	close(g.open)
	requireSame(c, want, procs...)
	plan := c.viewsSoFar()[1].Sync[2]
	require.Equal(t, elastic.SyncPlan{Kind: elastic.SyncState, From: []int{0, 1}}, plan)
	require.Equal(t, int64(1), procs[2].s.Counters().Recoveries)
}

// TestAnswersInsideGradients asks for a view while a worker is in a Gradients that does not return.
func TestAnswersInsideGradients(t *testing.T) {
	const steps, shards = 20, 8
	want := alone(t, newLinear(steps, shards))
	c := newCoordinator(t, elastic.Policy{Min: 2})
	stuck, free := make(chan struct{}), make(chan struct{})
	l := newLinear(steps, shards)
	var once atomic.Bool
	var cause error
	l.before = func(ctx context.Context, s elastic.Shard) error {
		if s.Step == 10 && once.CompareAndSwap(false, true) {
			close(stuck)
			<-free
			<-ctx.Done()
			cause = context.Cause(ctx)
		}
		return nil
	}
	procs := []*proc{launch(c, 0, l, nil), launch(c, 1, newLinear(steps, shards), nil)}
	<-stuck
	procs = append(procs, launch(c, 2, newLinear(steps, shards), nil))
	c.until("the view of three, decided while rank 0 computes", func() bool { return c.world() == 3 })
	close(free)
	requireSame(c, want, procs...)
	require.ErrorIs(t, cause, collective.ErrGenerationChanged)
}

// TestFreeze stops a worker's answers; it is evicted, wakes, and joins again.
func TestFreeze(t *testing.T) {
	const steps, shards = 20, 8
	want := alone(t, newLinear(steps, shards))
	c := newCoordinator(t, elastic.Policy{Min: 1, Start: 2})
	g := gate{9, make(chan struct{})}
	wake := make(chan struct{})
	frozen := newLinear(steps, shards)
	frozen.before = func(_ context.Context, s elastic.Shard) error {
		if s.Step == 6 {
			<-wake
		}
		return nil
	}
	procs := []*proc{launch(c, 0, gated(steps, shards, g), nil), launch(c, 1, frozen, func(_ *Config, p *proc) {
		if p.s != nil {
			p.s.inject = func(point string, step elastic.Step, _ int) bool {
				if point == PointPrepare && step == 5 {
					<-wake
				}
				return false
			}
		}
	})}
	c.atStep(5, "w0", "w1")
	procs = append(procs, launch(c, 2, gated(steps, shards, g), nil)) // asks for a view, which the frozen one does not answer
	c.until("the frozen one is evicted", func() bool { v := c.views[len(c.views)-1]; return len(c.views) > 1 && v.RankOf("w1") < 0 })
	c.atStep(9, "w0", "w2")
	close(wake)
	c.until("it joins again", func() bool { return c.world() == 3 })
	close(g.open)
	requireSame(c, want, procs...)
}

// TestCoordinatorCutAndBack trains on without a coordinator, and registers again with its successor.
func TestCoordinatorCutAndBack(t *testing.T) {
	const steps, shards = 20, 8
	want := alone(t, newLinear(steps, shards))
	for _, crash := range []bool{false, true} {
		t.Run(fmt.Sprintf("crash %v", crash), func(t *testing.T) {
			c := newCoordinator(t, elastic.Policy{Min: 2})
			g := gate{9, make(chan struct{})}
			procs := []*proc{launch(c, 0, gated(steps, shards, g), nil), launch(c, 1, gated(steps, shards, g), nil)}
			c.atStep(9, "w0", "w1")
			c.down()
			close(g.open)
			for _, p := range procs {
				p.until(func() bool { return p.s.pos.fence.Applied == steps })
			}
			if crash {
				c.restart()
			} else {
				c.up()
			}
			requireSame(c, want, procs...)
			require.Len(t, c.viewsSoFar(), 1, "no view changed")
		})
	}
}

// TestCoordinatorAndWorkerLost breaks the group while there is no coordinator: the survivor waits for it.
func TestCoordinatorAndWorkerLost(t *testing.T) {
	const steps, shards = 20, 8
	want := alone(t, newLinear(steps, shards))
	c := newCoordinator(t, elastic.Policy{Min: 1, Start: 2})
	g := gate{9, make(chan struct{})}
	procs := []*proc{launch(c, 0, gated(steps, shards, g), nil), launch(c, 1, gated(steps, shards, g), nil)}
	c.atStep(9, "w0", "w1")
	c.down()
	procs[1].kill()
	close(g.open)
	procs[0].until(func() bool { return procs[0].s.pos.broken })
	c.restart()
	c.feed(elastic.Lost{ID: "w1", Reason: "killed"})
	requireSame(c, want, procs[0])
}

// TestFlappingStreams cuts all control streams again and again: no view changes for that.
func TestFlappingStreams(t *testing.T) {
	const steps, shards, cuts = 60, 8, 5
	want := alone(t, newLinear(steps, shards))
	c := newCoordinator(t, elastic.Policy{Min: 3})
	var procs []*proc
	var gates []gate
	for i := range cuts {
		gates = append(gates, gate{elastic.Step(10 * (i + 1)), make(chan struct{})})
	}
	for i := range 3 {
		l := newLinear(steps, shards)
		l.before = func(ctx context.Context, s elastic.Shard) error {
			for _, g := range gates {
				if err := g.before(ctx, s); err != nil {
					return err
				}
			}
			return nil
		}
		procs = append(procs, launch(c, i, l, nil))
	}
	for i, g := range gates {
		c.atStep(g.upTo, "w0", "w1", "w2")
		c.mu.Lock()
		for id, a := range c.streams {
			close(a.end)
			delete(c.streams, id)
		}
		c.mu.Unlock()
		close(g.open)
		c.until("all are back", func() bool { return len(c.hellos) == 3*(i+2) })
	}
	requireSame(c, want, procs...)
	require.Len(t, c.viewsSoFar(), 1)
}

// TestOwnLoop drives a Session without a Trainer, through a view change.
func TestOwnLoop(t *testing.T) {
	const steps, shards = 20, 8
	want := alone(t, newLinear(steps, shards))
	c := newCoordinator(t, elastic.Policy{Min: 1})
	errs := make(chan error, 2)
	g := gate{9, make(chan struct{})}
	loop := func(id elastic.MemberID) {
		ctx, l := context.Background(), newLinear(steps, shards)
		s, err := Join(ctx, Config{Coordinator: c.addr, Job: "job", Member: id, Host: "host", Logger: quiet()})
		if err == nil {
			err = l.Setup(ctx, s)
		}
		if err != nil {
			errs <- err
			return
		}
		for s.Next(ctx) {
			for _, shard := range s.Shards() {
				_ = g.before(s.StepContext(), shard)
				loss, _ := l.Gradients(ctx, shard)
				s.Add(shard, loss)
			}
			if s.AllReduce(ctx) != nil {
				continue
			}
			_ = l.Apply(ctx, s.Step())
			s.Commit(ctx)
		}
		errs <- s.Err()
	}
	go loop("a")
	c.atStep(9, "a")
	go loop("b")
	c.until("two", func() bool { return c.world() == 2 })
	close(g.open)
	for range 2 {
		require.NoError(t, <-errs)
	}
	require.Equal(t, want, c.report("a").WeightsSha256)
	require.Equal(t, want, c.report("b").WeightsSha256)
}

// TestForgottenCommit: a loop that drops an update is told so.
func TestForgottenCommit(t *testing.T) {
	s, err := Join(t.Context(), Config{Logger: quiet()})
	require.NoError(t, err)
	l := newLinear(5, 2)
	require.NoError(t, l.Setup(t.Context(), s))
	for s.Next(t.Context()) {
		for _, shard := range s.Shards() {
			s.Add(shard, 0)
		}
		require.NoError(t, s.AllReduce(t.Context()))
	}
	require.ErrorContains(t, s.Err(), "before it committed step 1")
}
