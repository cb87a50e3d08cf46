package worker

import (
	"context"
	"fmt"
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/farandole-ml/farandole/elastic"
)

// newParts is a trainer whose gradient is reduced in many buckets, in a session with tiny.
func newParts(steps, shards int) *linear {
	l := newLinear(steps, shards)
	l.parts, l.overlap = 5, true
	return l
}

func tiny(cfg *Config, _ *proc) { cfg.BucketBytes = 16 }

// TestOverlapGivesTheSameWeights compares with a program that never calls Ready, on one worker.
func TestOverlapGivesTheSameWeights(t *testing.T) {
	const steps, shards = 12, 7
	plain := newParts(steps, shards)
	plain.overlap = false
	for _, wire := range []string{WireF32, WireBF16} {
		want, err := runAlone(t, Config{Wire: wire}, plain)
		require.NoError(t, err)
		for world := 1; world <= 5; world++ {
			t.Run(fmt.Sprintf("%s W=%d", wire, world), func(t *testing.T) {
				c := newCoordinator(t, elastic.Policy{Min: world})
				var procs []*proc
				for i := range world {
					procs = append(procs, launch(c, i, newParts(steps, shards), func(cfg *Config, p *proc) {
						tiny(cfg, p)
						cfg.Wire = wire
					}))
				}
				requireSame(c, want, procs...)
				require.Greater(t, len(procs[0].s.vec.buckets), 3)
			})
		}
	}
}

// The rounded wire is another arithmetic: the test above compares something.
func TestRoundedWireGivesOtherWeights(t *testing.T) {
	rounded, err := runAlone(t, Config{Wire: WireBF16}, newLinear(12, 7))
	require.NoError(t, err)
	require.NotEqual(t, alone(t, newLinear(12, 7)), rounded)
}

// A worker dies between two buckets of a step. The survivors drop what they reduced of it.
func TestKillBetweenBuckets(t *testing.T) {
	const steps, shards = 14, 8
	want := alone(t, newParts(steps, shards))
	for _, victim := range []int{0, 2} {
		t.Run(fmt.Sprintf("worker %d", victim), func(t *testing.T) {
			c := newCoordinator(t, elastic.Policy{Min: 2, Start: 3})
			procs, launched := make([]*proc, 3), make(chan struct{})
			for i := range procs {
				l := newParts(steps, shards)
				if i == victim {
					l.middle = func(ctx context.Context, s elastic.Shard) error {
						if s.Step != 6 || !l.session.cur.sum.last() {
							return nil
						}
						if l.session.cur.started == 0 {
							t.Error("no bucket is under way")
						}
						<-launched
						p := procs[victim]
						p.kill()
						c.feed(elastic.Lost{ID: p.id, Reason: "killed between buckets"})
						<-ctx.Done()
						return context.Cause(ctx)
					}
				}
				procs[i] = launch(c, i, l, tiny)
			}
			close(launched)
			require.ErrorIs(t, procs[victim].wait(), errKilled)
			for i, p := range procs {
				if i != victim {
					requireSame(c, want, p)
				}
			}
		})
	}
}

// A program that drops a step whose buckets are under way breaks its group, and all begin the step again.
func TestDroppedStepBeginsAgain(t *testing.T) {
	const steps, shards = 10, 4
	want := alone(t, newParts(steps, shards))
	c := newCoordinator(t, elastic.Policy{Min: 2})
	other := launch(c, 0, newParts(steps, shards), tiny)
	l, dropped := newParts(steps, shards), false
	s, err := Join(t.Context(), Config{Coordinator: c.addr, Job: "job", Member: "own", Host: "host", BucketBytes: 16, Logger: quiet()})
	require.NoError(t, err)
	require.NoError(t, l.Setup(t.Context(), s))
next:
	for s.Next(t.Context()) {
		for _, shard := range s.Shards() {
			loss, _ := l.Gradients(t.Context(), shard)
			if s.Step() == 5 && s.cur.sum.last() && !dropped {
				require.Positive(t, s.cur.started, "buckets are under way")
				dropped = true
				continue next
			}
			s.Add(shard, loss)
		}
		if s.AllReduce(t.Context()) == nil {
			require.NoError(t, l.Apply(t.Context(), s.Step()))
			s.Commit(t.Context())
		}
	}
	require.NoError(t, s.Err())
	requireSame(c, want, other)
	require.Equal(t, want, c.report("own").WeightsSha256)
	require.True(t, dropped)
	require.Greater(t, len(c.viewsSoFar()), 1, "the group that was left in the middle is replaced")
}

func TestOverlapFindsTheOriginOfNaN(t *testing.T) {
	l := newParts(10, 8)
	l.before = func(_ context.Context, s elastic.Shard) error {
		if s.Step == 4 && s.Index == 5 {
			l.gb[0], l.g[0] = float32(math.NaN()), float32(math.Inf(1))
		}
		return nil
	}
	sentence := "step 4: the gradient has a NaN or Inf: shard 5 brought it, in w0;"
	_, err := runAlone(t, Config{BucketBytes: 16}, l)
	require.ErrorContains(t, err, sentence)
	c := newCoordinator(t, elastic.Policy{Min: 3})
	var procs []*proc
	for i := range 3 {
		w := newParts(10, 8)
		w.before = func(_ context.Context, s elastic.Shard) error {
			if s.Step == 4 && s.Index == 5 {
				w.gb[0], w.g[0] = float32(math.NaN()), float32(math.Inf(1))
			}
			return nil
		}
		procs = append(procs, launch(c, i, w, tiny))
	}
	for _, p := range procs {
		require.ErrorContains(t, p.wait(), sentence)
	}
}

func TestReadyOutOfRange(t *testing.T) {
	l := newParts(3, 2)
	l.middle = func(context.Context, elastic.Shard) error {
		require.Panics(t, func() { l.session.Ready(6) })
		require.Panics(t, func() { l.session.Ready(-1) })
		return nil
	}
	c := newCoordinator(t, elastic.Policy{Min: 2})
	procs := []*proc{launch(c, 0, l, tiny), launch(c, 1, newParts(3, 2), tiny)}
	for _, p := range procs {
		require.NoError(t, p.wait())
	}
}

func TestBuckets(t *testing.T) {
	var params []param
	for _, n := range []int{3, 0, 10, 4, 5, 1} {
		params = append(params, param{"p", make([]float32, n), make([]float32, n)})
	}
	for _, c := range []struct {
		len   int
		round bool
		want  []bucket
	}{
		{0, false, []bucket{{0, 25, true}}},
		{0, true, []bucket{{0, 23, false}, {23, 25, true}}},
		{6, false, []bucket{{0, 6, false}, {6, 20, false}, {20, 25, true}}},
		{6, true, []bucket{{0, 6, false}, {6, 20, false}, {20, 23, false}, {23, 25, true}}},
		{100, false, []bucket{{0, 25, true}}},
	} {
		v := vector{round: c.round}
		v.lay(params, c.len)
		require.Equal(t, c.want, v.buckets)
		require.Equal(t, []int{23, 20, 20, 10, 6, 1}, v.ends)
	}
}
