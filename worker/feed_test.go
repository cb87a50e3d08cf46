package worker

import (
	"context"
	"errors"
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/farandole-ml/farandole/elastic"
	"github.com/farandole-ml/farandole/kernels"
)

// fetching is copies that come over only when backward has gone on: what is fetched in the first half of Gradients waits for the second.
type fetching struct {
	*copies
	on      bool            // the second half runs
	held    []chan struct{} // open until it does
	fetched int
	fails   func() error // of a wait; nil: none
}

func (f *fetching) FetchGradients(first, end int) (wait func() error, err error) {
	f.fetched++
	hold := make(chan struct{})
	if f.held = append(f.held, hold); f.on {
		f.release()
	}
	grads := f.grads[first:end]
	return func() error {
		<-hold
		for _, g := range grads {
			copy(g.host, g.device)
			clear(g.device)
		}
		if f.fails != nil {
			return f.fails()
		}
		return nil
	}, nil
}

func (f *fetching) release() {
	for _, hold := range f.held {
		close(hold)
	}
	f.held = nil
}

// fetcher gives l's gradients to a Fetcher.
func fetcher(l *linear) *linear {
	f := &fetching{copies: &copies{}}
	l.copies, l.fetch = f.copies, f
	l.before = func(context.Context, elastic.Shard) error { f.on = false; return nil }
	l.middle = func(context.Context, elastic.Shard) error {
		f.on = true
		f.release()
		return nil
	}
	return l
}

// TestFetcherGivesTheSameWeights: it would hang if Ready waited for what it fetches.
func TestFetcherGivesTheSameWeights(t *testing.T) {
	const steps, shards = 12, 7
	for _, wire := range []string{WireF32, WireBF16} {
		want, err := runAlone(t, Config{Wire: wire}, newParts(steps, shards))
		require.NoError(t, err)
		for world := 2; world <= 5; world++ {
			c := newCoordinator(t, elastic.Policy{Min: world})
			var procs []*proc
			for i := range world {
				l := fetcher(newParts(steps, shards))
				if i == 1 {
					l = remote(newParts(steps, shards))
				}
				procs = append(procs, launch(c, i, l, func(cfg *Config, p *proc) {
					tiny(cfg, p)
					cfg.Wire = wire
				}))
			}
			requireSame(c, want, procs...)
			require.GreaterOrEqual(t, procs[0].trainer.fetch.fetched, steps*3)
		}
	}
}

// TestFetchThatFails ends one worker by an error that a wait gives, in the middle of a step whose other buckets are under way.
func TestFetchThatFails(t *testing.T) {
	const steps, shards = 10, 6
	want := alone(t, newParts(steps, shards))
	failure := &kernels.DeviceError{Device: "GPU 1", Op: "Fetch", Err: errors.New("lost")}
	for _, at := range []int{1, 4, 11} {
		c := newCoordinator(t, elastic.Policy{Min: 1, Start: 3})
		victim := fetcher(newParts(steps, shards))
		waits := 0
		victim.fetch.fails = func() error {
			if waits++; waits >= at {
				return failure
			}
			return nil
		}
		procs := []*proc{
			launch(c, 0, fetcher(newParts(steps, shards)), tiny), launch(c, 1, victim, tiny), launch(c, 2, newParts(steps, shards), tiny),
		}
		err := procs[1].wait()
		require.ErrorIs(t, err, failure)
		c.feed(elastic.Lost{ID: procs[1].id, Reason: "its process ended"})
		requireSame(c, want, procs[0], procs[2])
		require.Empty(t, victim.fetch.held)
	}
}

// TestFetchOfADroppedStep: a program that gives up while gradients are on their way ends when they have arrived.
func TestFetchOfADroppedStep(t *testing.T) {
	const steps, shards = 10, 6
	want := alone(t, newParts(steps, shards))
	failure := &kernels.DeviceError{Device: "GPU 1", Op: "Linear", Err: errors.New("lost")}
	c := newCoordinator(t, elastic.Policy{Min: 1, Start: 2})
	victim := fetcher(newParts(steps, shards))
	begun := victim.middle
	victim.middle = func(ctx context.Context, s elastic.Shard) error {
		under := len(victim.fetch.held) > 0
		_ = begun(ctx, s)
		if under && s.Step == 4 {
			return failure
		}
		return nil
	}
	procs := []*proc{launch(c, 0, fetcher(newParts(steps, shards)), tiny), launch(c, 1, victim, tiny)}
	require.ErrorIs(t, procs[1].wait(), failure)
	c.feed(elastic.Lost{ID: procs[1].id, Reason: "its process ended"})
	requireSame(c, want, procs[0])
}

func TestFetcherFindsTheOriginOfNaN(t *testing.T) {
	c := newCoordinator(t, elastic.Policy{Min: 3})
	var procs []*proc
	for i := range 3 {
		w := fetcher(newParts(10, 8))
		reset := w.before
		w.before = func(ctx context.Context, s elastic.Shard) error {
			if s.Step == 4 && s.Index == 5 {
				w.gb[0], w.g[0] = float32(math.NaN()), float32(math.Inf(1))
			}
			return reset(ctx, s)
		}
		procs = append(procs, launch(c, i, w, tiny))
	}
	for _, p := range procs {
		require.ErrorContains(t, p.wait(), "step 4: the gradient has a NaN or Inf: shard 5 brought it, in w0;")
	}
}
