package worker

import (
	"context"
	"errors"
	"math"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/farandole-ml/farandole/elastic"
	"github.com/farandole-ml/farandole/kernels"
)

// copies is the Mirror of a linear whose own memory plays the device's.
type copies struct {
	grads, state []copied
	pulls        int // of the state
	pulled       int // of gradients, counted by a residentCopies
	broken       func() error
}

type copied struct{ device, host []float32 }

// value and grad give what is registered for memory of the device: at first all NaN.
func (c *copies) value(x []float32) []float32 {
	if c == nil {
		return x
	}
	return copyOf(x, &c.state)
}

func (c *copies) grad(x []float32) []float32 {
	if c == nil {
		return x
	}
	return copyOf(x, &c.grads)
}

func copyOf(x []float32, list *[]copied) []float32 {
	host := make([]float32, len(x))
	for i := range host {
		host[i] = float32(math.NaN())
	}
	*list = append(*list, copied{x, host})
	return host
}

func (c *copies) PullGradients(first, end int) error {
	for _, g := range c.grads[first:end] {
		copy(g.host, g.device)
		clear(g.device)
	}
	return c.fails()
}

func (c *copies) PushGradients() error {
	for _, g := range c.grads {
		copy(g.device, g.host)
	}
	return c.fails()
}

func (c *copies) ClearGradients() error {
	for _, g := range c.grads {
		clear(g.device)
	}
	return c.fails()
}

func (c *copies) PullState() error {
	c.pulls++
	for _, s := range c.state {
		copy(s.host, s.device)
	}
	return c.fails()
}

func (c *copies) PushState() error {
	for _, s := range c.state {
		copy(s.device, s.host)
	}
	return c.fails()
}

func (c *copies) fails() error {
	if c.broken == nil {
		return nil
	}
	return c.broken()
}

func remote(l *linear) *linear {
	l.copies = &copies{}
	return l
}

func TestMirrorGivesTheSameWeights(t *testing.T) {
	const steps, shards = 12, 7
	want := alone(t, newLinear(steps, shards))
	l := remote(newLinear(steps, shards))
	require.Equal(t, want, alone(t, l))
	require.Equal(t, 1, l.copies.pulls, "for the hash at the end")

	wantParts := alone(t, newParts(steps, shards))
	require.Equal(t, wantParts, alone(t, remote(newParts(steps, shards))))
	c := newCoordinator(t, elastic.Policy{Min: 3})
	requireSame(c, wantParts, launch(c, 0, remote(newParts(steps, shards)), tiny), launch(c, 1, newParts(steps, shards), tiny),
		launch(c, 2, remote(newParts(steps, shards)), tiny))
}

// State goes from a device to a joiner's, and from and to checkpoints.
func TestMirrorOfAJoiner(t *testing.T) {
	const steps, shards = 20, 8
	want := alone(t, newLinear(steps, shards))
	c := newCoordinator(t, elastic.Policy{Min: 2})
	g := gate{9, make(chan struct{})}
	procs := []*proc{launch(c, 0, remote(gated(steps, shards, g)), nil), launch(c, 1, gated(steps, shards, g), nil)}
	c.atStep(9, "w0", "w1")
	procs = append(procs, launch(c, 2, remote(newLinear(steps, shards)), nil))
	c.until("a view of three", func() bool { return c.world() == 3 })
	close(g.open)
	requireSame(c, want, procs...)
}

func TestMirrorAndCheckpoints(t *testing.T) {
	const steps, shards = 12, 4
	want := alone(t, newLinear(steps, shards))
	cfg := Config{CheckpointDir: t.TempDir(), CheckpointEvery: 4}
	stopped := errors.New("stopped")
	l := remote(newLinear(steps, shards))
	l.before = func(_ context.Context, s elastic.Shard) error {
		if s.Step == 7 {
			saved := filepath.Join(cfg.CheckpointDir, "step-00000004", "COMMIT")
			require.Eventually(t, func() bool { _, err := os.Stat(saved); return err == nil }, time.Minute, time.Millisecond)
			return stopped
		}
		return nil
	}
	_, err := runAlone(t, cfg, l)
	require.ErrorIs(t, err, stopped)
	for _, l := range []*linear{remote(newLinear(steps, shards)), newLinear(steps, shards)} { // step 4, then the last one
		sum, err := runAlone(t, cfg, l)
		require.NoError(t, err)
		require.Equal(t, want, sum)
	}
}

// A NaN that is injected reaches the sum: it is put where the device's gradients arrive.
func TestMirrorWithInjectedNaN(t *testing.T) {
	l := remote(newLinear(5, 4))
	_, err := runAlone(t, Config{Fault: &Fault{Point: PointGradients, Step: 3, Rank: 0, Action: ActionNaN}}, l)
	require.ErrorContains(t, err, "step 3: the gradient has a NaN")
}

// TestDeviceErrorEndsOneWorker breaks one worker's device at every call of its Mirror in turn, and in Gradients.
func TestDeviceErrorEndsOneWorker(t *testing.T) {
	const steps, shards = 8, 6
	want := alone(t, newParts(steps, shards))
	failure := &kernels.DeviceError{Device: "GPU 1", Op: "Add", Err: errors.New("lost")}
	for _, at := range []int{0, 3, 7, 12, 20, 33} {
		c := newCoordinator(t, elastic.Policy{Min: 1, Start: 3})
		victim := remote(newParts(steps, shards))
		calls := 0
		victim.copies.broken = func() error {
			if calls++; calls > at {
				return failure
			}
			return nil
		}
		if at == 12 {
			victim.copies.broken = nil
			victim.before = func(_ context.Context, s elastic.Shard) error {
				if s.Step == 4 {
					return failure
				}
				return nil
			}
		}
		procs := []*proc{launch(c, 0, newParts(steps, shards), tiny), launch(c, 1, victim, tiny), launch(c, 2, remote(newParts(steps, shards)), tiny)}
		err := procs[1].wait()
		require.ErrorIs(t, err, failure)
		require.Equal(t, exitFailed, ExitCode(err))
		c.feed(elastic.Lost{ID: procs[1].id, Reason: "its process ended"})
		requireSame(c, want, procs[0], procs[2])
		c.seen(func() { require.Empty(t, c.failed, "the job goes on") })
	}
}
