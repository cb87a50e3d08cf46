package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/farandole-ml/farandole/elastic"
	"github.com/farandole-ml/farandole/kernels"
	"github.com/farandole-ml/farandole/kernels/nn"
	"github.com/farandole-ml/farandole/worker"
)

// `bench step --in-job` asks what the machinery costs a healthy step: the same program trains alone, without a
// coordinator, and as a job of one worker, in turn. The program times its own steps.

// machineryPairs is how many times the two run, one after the other.
const machineryPairs = 11

// machineryLimit is for one of them; a hang ends here.
const machineryLimit = 10 * time.Minute

// machineryReport is `bench step --in-job -o json`.
type machineryReport struct {
	Model           string    `json:"model"`
	Batch           int       `json:"batch"`
	Seq             int       `json:"seq"`
	Threads         int       `json:"threads"`
	Iterations      int       `json:"iterations"`
	AloneMSPerStep  []float64 `json:"alone_ms_per_step"` // the medians of the pairs
	JobMSPerStep    []float64 `json:"job_ms_per_step"`
	OverheadPercent float64   `json:"overhead_percent"` // median over the pairs of job/alone - 1
}

// benchTrainer is the program: a model that trains on noise and writes its median step time to a file.
type benchTrainer struct {
	Model         string
	Batch, Seq    int
	Iters, Warmup int
	Report        string

	dev   kernels.Device
	model nn.Model
	opt   *nn.AdamW
	noise nn.Batch
	last  time.Time
	nanos []int64
}

// newBenchTrainerCommand takes its arguments as one JSON object: it is called by bench step alone.
func newBenchTrainerCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "trainer JSON",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			t := new(benchTrainer)
			if err := json.Unmarshal([]byte(args[0]), t); err != nil {
				return usagef("read the task: %w", err)
			}
			worker.Main(t)
			return nil
		},
	}
}

func (t *benchTrainer) Setup(_ context.Context, s *worker.Session) (err error) {
	if t.dev, err = kernels.NewCPU(kernels.Config{Threads: s.Threads()}); err != nil {
		return err
	}
	if t.model, err = nn.New(t.dev, t.Model); err != nil {
		return err
	}
	t.model.Init(1)
	if t.opt, err = nn.NewAdamW(t.dev, t.model, nn.Hyper{Schedule: nn.Schedule{Peak: 1e-4}}); err != nil {
		return err
	}
	t.noise = t.model.RandomBatch(t.Batch, t.Seq, 1)
	s.Plan(worker.Plan{Steps: int64(t.Warmup + t.Iters), Shards: 1, SamplesPerStep: int64(t.Batch),
		TokensPerStep: int64(t.Batch * t.Seq), Program: t.model.Program(), Class: t.dev.Class()})
	for _, p := range t.model.Params() {
		s.Param(p.Name, p.Shape, t.dev.Host(p.Value), t.dev.Host(p.Grad))
	}
	m, v := t.opt.Moments()
	s.State("adam.m", t.dev.Host(m))
	s.State("adam.v", t.dev.Host(v))
	return nil
}

func (t *benchTrainer) Gradients(context.Context, elastic.Shard) (float64, error) {
	if err := t.model.Forward(t.noise, 1/float32(len(t.noise.Targets))); err != nil {
		return 0, err
	}
	t.model.Backward()
	loss, err := t.model.Loss()
	return loss / float64(len(t.noise.Targets)), err
}

func (t *benchTrainer) Apply(_ context.Context, step elastic.Step) error {
	_, err := t.opt.Update(int64(step))
	if err == nil {
		err = t.dev.Sync()
	}
	now := time.Now()
	if int(step) > t.Warmup {
		t.nanos = append(t.nanos, now.Sub(t.last).Nanoseconds())
	}
	t.last = now
	return err
}

func (t *benchTrainer) Finish(context.Context, *worker.Session) error {
	return writeFileAtomic(t.Report, []byte(strconv.FormatFloat(median(t.nanos), 'f', 0, 64)))
}

// benchMachinery runs the pairs.
func benchMachinery(ctx context.Context, model string, batch, seq int, o *computeOptions) (*machineryReport, error) {
	dir, err := os.MkdirTemp("", "farandole-bench-")
	if err != nil {
		return nil, failf("%w", err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	report := filepath.Join(dir, "nanos")
	task, err := json.Marshal(&benchTrainer{Model: model, Batch: batch, Seq: seq, Iters: o.iters, Warmup: max(o.warmup, 1), Report: report})
	if err != nil {
		return nil, failf("%w", err)
	}
	exe, err := os.Executable()
	if err != nil {
		return nil, failf("%w", err)
	}
	threads := strconv.Itoa(o.threads)
	alone := append([]string{exe}, "bench", "trainer", string(task))
	job := append([]string{exe, "run", "--workers", "1", "--threads", threads, "--"}, alone...)
	r := &machineryReport{Model: model, Batch: batch, Seq: seq, Threads: o.threads, Iterations: o.iters}
	var ratios []float64
	for i := range machineryPairs {
		var ms [2]float64
		for k := range 2 {
			// Who is first takes turns too: a machine that warms up or slows down must not favour one.
			which := (i + k) % 2
			argv := [][]string{alone, job}[which]
			if ms[which], err = runMachinery(ctx, argv, threads, report); err != nil {
				return nil, err
			}
		}
		r.AloneMSPerStep = append(r.AloneMSPerStep, ms[0])
		r.JobMSPerStep = append(r.JobMSPerStep, ms[1])
		ratios = append(ratios, ms[1]/ms[0])
	}
	slices.Sort(ratios)
	r.OverheadPercent = (ratios[len(ratios)/2] - 1) * 100
	return r, nil
}

// runMachinery gives the program's own median step time in milliseconds.
func runMachinery(ctx context.Context, argv []string, threads, report string) (float64, error) {
	ctx, cancel := context.WithTimeout(ctx, machineryLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = agentStop
	cmd.Env = append(os.Environ(), "FARANDOLE_THREADS="+threads)
	out := new(tailBuffer)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Run(); err != nil {
		return 0, errors.Join(failf("the timed program ended: %w: %s", err, lastLine(out.String())), ctx.Err())
	}
	b, err := os.ReadFile(report)
	if err != nil {
		return 0, failf("the timed program left no result: %w", err)
	}
	ns, err := strconv.ParseFloat(string(b), 64)
	if err != nil {
		return 0, failf("the timed program left no number: %w", err)
	}
	return ns / 1e6, os.Remove(report)
}

func (r *machineryReport) String() string {
	a, j := slices.Sorted(slices.Values(r.AloneMSPerStep)), slices.Sorted(slices.Values(r.JobMSPerStep))
	return fmt.Sprintf("%s, batch %d, seq %d, %d threads: alone %.3f ms a step, in a job %.3f ms; the machinery costs %+.2f %% (median of %d pairs of %d steps)",
		r.Model, r.Batch, r.Seq, r.Threads, a[len(a)/2], j[len(j)/2], r.OverheadPercent, len(a), r.Iterations)
}
