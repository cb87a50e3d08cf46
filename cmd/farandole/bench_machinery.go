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

	"github.com/farandole-ml/farandole/kernels/nn"
)

// `bench step --in-job` asks what the machinery costs a healthy step: the same program trains alone, without a
// coordinator, and as a job of one worker, in turn. The program times its own steps.
//
// What computing takes differs from run to run by more than the machinery costs. So the same is done once more with a
// program that sleeps where the other computes, for as long. What its step takes longer in a job is the machinery's delay,
// and what all processes together use of the processors for it, which computing could have used, is the machinery's work.
// That program has the smallest model: with one worker nothing that the machinery does depends on the model's size.

const (
	machineryPairs = 11               // how many times alone and job run, one after the other
	idlePairs      = 5                // the same with sleep
	machineryLimit = 10 * time.Minute // for one of them; a hang ends here
)

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

	// With sleep for computing: medians over the pairs of job minus alone.
	IdleDelayUS      float64 `json:"idle_delay_us"`     // wall time of a step
	IdleCPUUS        float64 `json:"idle_cpu_us"`       // processor time of all processes for a step
	MachineryPercent float64 `json:"machinery_percent"` // the larger of the two, of the step alone
}

// machinery runs the program alone and as a job.
type machinery struct {
	exe, report string
	threads     int
	task        trainerTask
}

// stepCost is what one run measured.
type stepCost struct {
	wall float64       // median of a step, in milliseconds
	cpu  time.Duration // of all processes, from their start to their end
}

// benchMachinery runs the pairs.
func benchMachinery(ctx context.Context, model string, batch, seq int, o *computeOptions) (*machineryReport, error) {
	dir, err := os.MkdirTemp("", "farandole-bench-")
	if err != nil {
		return nil, failf("%w", err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	exe, err := os.Executable()
	if err != nil {
		return nil, failf("%w", err)
	}
	m := &machinery{exe: exe, report: filepath.Join(dir, "nanos"), threads: o.threads}
	m.task = trainerTask{Model: model, Precision: o.precision, Products: o.products, Batch: batch, Seq: seq, Iters: o.iters, Warmup: max(o.warmup, 1), Report: m.report}
	r := &machineryReport{Model: model, Batch: batch, Seq: seq, Threads: o.threads, Iterations: o.iters}
	var ratios []float64
	for i := range machineryPairs {
		alone, job, err := m.pair(ctx, i)
		if err != nil {
			return nil, err
		}
		r.AloneMSPerStep = append(r.AloneMSPerStep, alone.wall)
		r.JobMSPerStep = append(r.JobMSPerStep, job.wall)
		ratios = append(ratios, job.wall/alone.wall)
	}
	r.OverheadPercent = (middle(ratios) - 1) * 100
	return r, m.idle(ctx, r)
}

// idle fills r's figures with sleep. A run's processor time has its start and end in it: only what more steps add counts.
func (m *machinery) idle(ctx context.Context, r *machineryReport) error {
	step := middle(r.AloneMSPerStep)
	m.task.Idle = time.Duration(step * float64(time.Millisecond))
	m.task.Model, m.task.Batch, m.task.Seq = nn.GPTNames()[0], 1, 1
	few, many := m.task.Iters, 3*m.task.Iters
	var delays, cpus []float64
	for i := range idlePairs {
		m.task.Iters = few
		shortAlone, shortJob, err := m.pair(ctx, i)
		if err != nil {
			return err
		}
		m.task.Iters = many
		alone, job, err := m.pair(ctx, i)
		if err != nil {
			return err
		}
		extra := (job.cpu - shortJob.cpu) - (alone.cpu - shortAlone.cpu)
		delays = append(delays, 1e3*(job.wall-alone.wall))
		cpus = append(cpus, float64(extra.Microseconds())/float64(many-few))
	}
	r.IdleDelayUS, r.IdleCPUUS = middle(delays), middle(cpus)
	r.MachineryPercent = max(r.IdleDelayUS, r.IdleCPUUS) / step / 10
	return nil
}

// pair runs the program alone and as a job. Who is first takes turns: a machine that warms up or slows down must not
// favour one.
func (m *machinery) pair(ctx context.Context, turn int) (alone, job stepCost, err error) {
	task, err := json.Marshal(m.task)
	if err != nil {
		return alone, job, failf("%w", err)
	}
	program := []string{m.exe, "bench", "trainer", string(task)}
	run := append([]string{m.exe, "run", "--workers", "1", "--threads", strconv.Itoa(m.threads), "--"}, program...)
	for k := range 2 {
		if (turn+k)%2 == 0 {
			alone, err = m.run(ctx, program)
		} else {
			job, err = m.run(ctx, run)
		}
		if err != nil {
			return alone, job, err
		}
	}
	return alone, job, nil
}

func (m *machinery) run(ctx context.Context, argv []string) (c stepCost, err error) {
	ctx, cancel := context.WithTimeout(ctx, machineryLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = agentStop
	cmd.Env = append(os.Environ(), "FARANDOLE_THREADS="+strconv.Itoa(m.threads))
	out := new(tailBuffer)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Run(); err != nil {
		return c, errors.Join(failf("the timed program ended: %w: %s", err, lastLine(out.String())), ctx.Err())
	}
	// A process's times have those of its children in them, once it has waited for them, as `run` does for the worker.
	c.cpu = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	b, err := os.ReadFile(m.report)
	if err != nil {
		return c, failf("the timed program left no result: %w", err)
	}
	ns, err := strconv.ParseFloat(string(b), 64)
	if err != nil {
		return c, failf("the timed program left no number: %w", err)
	}
	c.wall = ns / 1e6
	return c, os.Remove(m.report)
}

// middle is the median.
func middle(x []float64) float64 {
	x = slices.Sorted(slices.Values(x))
	return x[len(x)/2]
}

func (r *machineryReport) String() string {
	return fmt.Sprintf(`%s, batch %d, seq %d, %d threads: alone %.3f ms a step, in a job %.3f ms: %+.2f %% (median of %d pairs of %d steps)
the same with sleep for computing: a step takes %.0f us longer in a job, all processes use %.0f us more: %.2f %% of a step alone`,
		r.Model, r.Batch, r.Seq, r.Threads, middle(r.AloneMSPerStep), middle(r.JobMSPerStep), r.OverheadPercent, len(r.JobMSPerStep), r.Iterations,
		r.IdleDelayUS, r.IdleCPUUS, r.MachineryPercent)
}
