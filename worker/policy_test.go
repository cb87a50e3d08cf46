package worker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/farandole-ml/farandole/checkpoint"
	"github.com/farandole-ml/farandole/elastic"
)

// poison brings a NaN into one shard of one step.
func poison(l *linear, step elastic.Step, shard int) *linear {
	l.before = func(_ context.Context, s elastic.Shard) error {
		if s.Step == step && s.Index == shard {
			l.gb[0] = float32(math.NaN())
		}
		return nil
	}
	return l
}

func TestNaNStops(t *testing.T) {
	const steps, shards = 10, 8
	sentence := "step 4: the gradient has a NaN or Inf: shard 5 brought it, in b;"
	_, err := runAlone(t, Config{}, poison(newLinear(steps, shards), 4, 5))
	require.ErrorContains(t, err, sentence)
	for world := 1; world <= 3; world++ {
		t.Run(fmt.Sprintf("W=%d", world), func(t *testing.T) {
			c := newCoordinator(t, elastic.Policy{Min: world})
			var procs []*proc
			for i := range world {
				procs = append(procs, launch(c, i, poison(newLinear(steps, shards), 4, 5), nil))
			}
			for _, p := range procs {
				require.ErrorContains(t, p.wait(), sentence)
				require.Equal(t, 1, ExitCode(p.err))
				require.Equal(t, int64(3), p.trainer.applied.Load())
			}
			require.NotEmpty(t, c.failures())
		})
	}
}

func TestNaNSkips(t *testing.T) {
	const steps, shards = 10, 8
	skip := Config{NaN: NaNSkip}
	want, err := runAlone(t, skip, poison(newLinear(steps, shards), 4, 5))
	require.NoError(t, err)
	require.NotEqual(t, want, alone(t, newLinear(steps, shards)))
	for world := 2; world <= 3; world++ {
		c := newCoordinator(t, elastic.Policy{Min: world})
		var procs []*proc
		for i := range world {
			procs = append(procs, launch(c, i, poison(newLinear(steps, shards), 4, 5), func(cfg *Config, _ *proc) { cfg.NaN = NaNSkip }))
		}
		requireSame(c, want, procs...)
		require.Equal(t, int64(1), procs[0].s.Counters().Skipped)
	}
}

// TestPreempt asks one worker to vote: all stop after the same step, with a checkpoint from which another world size
// reaches the undisturbed end.
func TestPreempt(t *testing.T) {
	const steps, shards = 40, 8
	want, dir := alone(t, newLinear(steps, shards)), t.TempDir()
	with := func(cfg *Config, _ *proc) { cfg.CheckpointDir = dir }
	c := newCoordinator(t, elastic.Policy{Min: 2})
	g := gate{9, make(chan struct{})}
	procs := []*proc{launch(c, 0, gated(steps, shards, g), with), launch(c, 1, gated(steps, shards, g), with)}
	c.atStep(9, "w0", "w1")
	c.preempt("w1")
	procs[1].untilPreempted()
	close(g.open)
	for _, p := range procs {
		require.NoError(t, p.wait())
		require.Equal(t, int64(10), c.report(p.id).Step)
	}
	d, err := checkpoint.Open(dir, false)
	require.NoError(t, err)
	info, err := d.Latest()
	require.NoError(t, err)
	require.Equal(t, elastic.Step(10), info.Step)
	require.Equal(t, 2, info.Parts)
	c.seen(func() {
		require.Len(t, c.saved, 1)
		require.Equal(t, info.Bytes, c.saved[0].Bytes)
	})

	next := newCoordinator(t, elastic.Policy{Min: 3})
	procs = nil
	for i := range 3 {
		procs = append(procs, launch(next, i, newLinear(steps, shards), with))
	}
	requireSame(next, want, procs...)
	require.Equal(t, elastic.Step(10), next.viewsSoFar()[0].Resume)

	sum, err := runAlone(t, Config{CheckpointDir: dir}, newLinear(steps, shards))
	require.NoError(t, err)
	require.Equal(t, want, sum, "a finished run is only loaded")
}

func (p *proc) untilPreempted() {
	for !p.s.preempt.Load() {
		time.Sleep(time.Millisecond)
	}
}

// partOf is the file of a checkpoint that one worker wrote.
func partOf(dir string, step elastic.Step) string {
	return filepath.Join(dir, fmt.Sprintf("step-%08d", step), "part-0-of-1.safetensors")
}

// flipLast damages a file so that only its hash tells.
func flipLast(t *testing.T, path string) {
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	b[len(b)-1] ^= 1
	require.NoError(t, os.WriteFile(path, b, 0o600))
}

// TestTruncatedCheckpointIsNamed: a checkpoint whose damage shows at once is tried all the same, so that the log names it.
func TestTruncatedCheckpointIsNamed(t *testing.T) {
	const shards = 4
	dir := t.TempDir()
	_, err := runAlone(t, Config{CheckpointDir: dir, CheckpointEvery: 3}, newLinear(10, shards))
	require.NoError(t, err)
	require.NoError(t, os.Truncate(partOf(dir, 10), 100))
	var log bytes.Buffer
	resume := func() error {
		s, err := Join(t.Context(), Config{CheckpointDir: dir, Logger: slog.New(slog.NewTextHandler(&log, nil))})
		require.NoError(t, err)
		s.stdout, s.stderr = io.Discard, io.Discard
		return s.run(t.Context(), newLinear(10, shards))
	}
	require.NoError(t, resume())
	require.Contains(t, log.String(), `msg="checkpoint not usable, looking for the one before it"`)
	require.Contains(t, log.String(), "step-00000010/part-0-of-1.safetensors is corrupt: it has 100 bytes, and the manifest says")

	// Where no other is left, nobody begins anew: that would write over what can perhaps be mended.
	for _, step := range []elastic.Step{6, 9, 10} {
		require.NoError(t, os.Truncate(partOf(dir, step), 100))
	}
	require.ErrorContains(t, resume(), "no checkpoint in "+dir+" is usable; move them away to train from the beginning")
}

// TestCheckpointsAlone saves while training alone, damages the newest, and resumes from the one before it.
func TestCheckpointsAlone(t *testing.T) {
	const shards = 4
	dir := t.TempDir()
	sum, err := runAlone(t, Config{CheckpointDir: dir, CheckpointEvery: 3}, newLinear(10, shards))
	require.NoError(t, err)
	require.Equal(t, alone(t, newLinear(10, shards)), sum)
	d, err := checkpoint.Open(dir, false)
	require.NoError(t, err)
	infos, err := d.List()
	require.NoError(t, err)
	require.Len(t, infos, keepCheckpoints)
	require.Equal(t, elastic.Step(10), infos[2].Step)

	flipLast(t, partOf(dir, 10))
	l := newLinear(20, shards)
	first := elastic.Step(0)
	l.before = func(_ context.Context, s elastic.Shard) error {
		if first == 0 {
			first = s.Step
		}
		return nil
	}
	sum, err = runAlone(t, Config{CheckpointDir: dir, CheckpointEvery: 3}, l)
	require.NoError(t, err)
	require.Equal(t, alone(t, newLinear(20, shards)), sum)
	require.Equal(t, elastic.Step(10), first, "resumed after step 9")
}

// TestJobResumesPastADamagedCheckpoint: the loader says that the newest is damaged, and the next view takes the one before.
func TestJobResumesPastADamagedCheckpoint(t *testing.T) {
	const steps, shards = 20, 4
	dir := t.TempDir()
	_, err := runAlone(t, Config{CheckpointDir: dir, CheckpointEvery: 3}, newLinear(10, shards))
	require.NoError(t, err)
	flipLast(t, partOf(dir, 10))
	c := newCoordinator(t, elastic.Policy{Min: 2})
	var procs []*proc
	for i := range 2 {
		procs = append(procs, launch(c, i, newLinear(steps, shards), func(cfg *Config, _ *proc) { cfg.CheckpointDir = dir }))
	}
	requireSame(c, alone(t, newLinear(steps, shards)), procs...)
	views := c.viewsSoFar()
	require.Equal(t, elastic.Step(10), views[0].Resume)
	require.Equal(t, elastic.Step(9), views[len(views)-1].Resume)
}

func TestCheckpointOfAnotherJobIsRefused(t *testing.T) {
	dir := t.TempDir()
	_, err := runAlone(t, Config{CheckpointDir: dir}, newLinear(5, 4))
	require.NoError(t, err)
	for name, change := range map[string]func(l *linear){
		"program": func(l *linear) { l.program = "another" },
		"shards":  func(l *linear) { l.shards = 8 },
		"seed":    func(l *linear) { l.seed = 8 },
		"tensors": func(l *linear) { l.width = 38 },
	} {
		l := newLinear(9, 4)
		change(l)
		_, err := runAlone(t, Config{CheckpointDir: dir}, l)
		require.Errorf(t, err, name)
		require.Equalf(t, 2, ExitCode(err), "%s: %v", name, err)
		require.Zero(t, l.applied.Load(), name)
	}
}

// TestSaveAgainUnderANewWorld kills a worker before its part is written: the view that resumes at that step saves again.
func TestSaveAgainUnderANewWorld(t *testing.T) {
	const steps, shards = 12, 8
	want, dir := alone(t, newLinear(steps, shards)), t.TempDir()
	c := newCoordinator(t, elastic.Policy{Min: 2, Start: 3})
	var procs []*proc
	for i := range 3 {
		change := dieAt(c, Fault{Point: PointApplied, Step: 6, Rank: -1})
		procs = append(procs, launch(c, i, newLinear(steps, shards), func(cfg *Config, p *proc) {
			cfg.CheckpointDir, cfg.CheckpointEvery = dir, 6
			if i == 1 {
				change(cfg, p)
			}
		}))
	}
	requireSame(c, want, procs[0], procs[2])
	d, err := checkpoint.Open(dir, false)
	require.NoError(t, err)
	infos, err := d.List()
	require.NoError(t, err)
	require.Len(t, infos, 2)
	require.Truef(t, infos[0].Complete, "step %d: %s", infos[0].Step, infos[0].Problem)
	require.Equal(t, elastic.Step(6), infos[0].Step)
	require.NoError(t, d.Verify(t.Context(), 6))
	require.NoError(t, d.Verify(t.Context(), steps))
}

// TestCheckpointDiskFails: training goes on and ends well.
func TestCheckpointDiskFails(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "c")
	l := newLinear(6, 4)
	l.before = func(_ context.Context, s elastic.Shard) error {
		if s.Step == 1 { // what is there now cannot become a directory
			return os.WriteFile(filepath.Join(dir, "step-00000004"), nil, 0o600)
		}
		return nil
	}
	sum, err := runAlone(t, Config{CheckpointDir: dir, CheckpointEvery: 4}, l)
	require.NoError(t, err)
	require.Equal(t, alone(t, newLinear(6, 4)), sum)
}

func TestProgramErrors(t *testing.T) {
	boom := errors.New("boom")
	for _, c := range []struct {
		name string
		make func() *linear
		code int
		text string
	}{
		{"gradients", func() *linear {
			l := newLinear(5, 4)
			l.before = func(_ context.Context, s elastic.Shard) error {
				if s.Step == 3 && s.Index == 2 {
					return boom
				}
				return nil
			}
			return l
		}, 1, "step 3 shard 2/4: boom"},
		{"usage", func() *linear {
			l := newLinear(5, 4)
			l.err = &UsageError{"no such model"}
			return l
		}, 2, "no such model"},
		{"no shards", func() *linear { return newLinear(5, 0) }, 2, "0 shards"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := runAlone(t, Config{}, c.make())
			require.ErrorContains(t, err, c.text)
			require.Equal(t, c.code, ExitCode(err))
			co := newCoordinator(t, elastic.Policy{Min: 2})
			a, b := launch(co, 0, c.make(), nil), launch(co, 1, c.make(), nil)
			for _, p := range []*proc{a, b} {
				require.ErrorContains(t, p.wait(), c.text)
			}
			failed := co.failures()[0]
			require.Equal(t, c.code == 2, failed.Usage)
			require.Contains(t, failed.Reason, c.text)
		})
	}
}

// TestDifferentSetup: workers that would train different things never do a step.
func TestDifferentSetup(t *testing.T) {
	for name, c := range map[string]struct {
		change func(l *linear)
		text   string
	}{
		"state":   {func(l *linear) { l.setup = func() { l.w[3]++ } }, "ranks 0 and 1 have different parameters or state at step 0"},
		"program": {func(l *linear) { l.program = "another" }, "ranks 0 and 1 run different jobs"},
		"steps":   {func(l *linear) { l.steps++ }, "ranks 0 and 1 run different jobs"},
	} {
		t.Run(name, func(t *testing.T) {
			co := newCoordinator(t, elastic.Policy{Min: 2})
			other := newLinear(5, 4)
			c.change(other)
			a, b := launch(co, 0, newLinear(5, 4), nil), launch(co, 1, other, nil)
			require.ErrorContains(t, a.wait(), c.text)
			require.ErrorContains(t, b.wait(), c.text)
			require.Zero(t, a.trainer.applied.Load()+b.trainer.applied.Load())
		})
	}
}

// TestNoCoordinator ends with a sentence after its limit.
func TestNoCoordinator(t *testing.T) {
	s, err := Join(t.Context(), Config{Coordinator: "127.0.0.1:1", Job: "job", Liveness: 5 * time.Millisecond, Logger: quiet()})
	require.NoError(t, err)
	err = s.run(t.Context(), newLinear(5, 4))
	require.ErrorContains(t, err, "no coordinator at 127.0.0.1:1")
	require.Equal(t, 1, ExitCode(err))
}

// TestRing sums around the ring: deterministic for a roster.
func TestRing(t *testing.T) {
	const steps, shards = 10, 8
	ring := func(cfg *Config, _ *proc) { cfg.Reduce = ReduceRing }
	var sums []string
	for range 2 {
		c := newCoordinator(t, elastic.Policy{Min: 3})
		var procs []*proc
		for i := range 3 {
			procs = append(procs, launch(c, i, newLinear(steps, shards), ring))
		}
		require.NoError(t, procs[0].wait())
		sum := c.report("w0").WeightsSha256
		requireSame(c, sum, procs...)
		sums = append(sums, sum)
	}
	require.Equal(t, sums[0], sums[1])
	require.NotEqual(t, alone(t, newLinear(steps, shards)), sums[0], "the width is enough for order to matter")
}
