package main

import (
	"context"
	"fmt"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/farandole-ml/farandole/kernels"
	"github.com/farandole-ml/farandole/kernels/nn"
)

// peakTime is how long the machine's peak is measured.
const peakTime = 300 * time.Millisecond

// computeOptions are the flags that `bench step` and `bench gemm` share.
type computeOptions struct {
	threads       int
	isa           string
	iters, warmup int
	output        string
}

func (o *computeOptions) addFlags(cmd *cobra.Command, iters int) {
	f := cmd.Flags()
	f.IntVar(&o.threads, "threads", 0, "threads (0: one per core)")
	f.StringVar(&o.isa, "isa", "", "instruction set: "+strings.Join(kernels.ISAs(), ", ")+" (default: the best here)")
	f.IntVar(&o.iters, "iters", iters, "timed iterations")
	f.IntVar(&o.warmup, "warmup", 1, "iterations before them")
	f.StringVarP(&o.output, "output", "o", "text", "text or json")
}

// open checks the flags and opens the device.
func (o *computeOptions) open() (kernels.Device, error) {
	switch {
	case o.threads < 0 || o.threads > 4096:
		return nil, usagef("--threads wants a number from 1 to 4096, or 0 for one per core, not %d", o.threads)
	case o.iters < 1 || o.iters > maxBenchIters:
		return nil, usagef("--iters wants 1 to %d, not %d", maxBenchIters, o.iters)
	case o.warmup < 0 || o.warmup > maxBenchIters:
		return nil, usagef("--warmup wants 0 to %d, not %d", maxBenchIters, o.warmup)
	}
	if err := oneOf("-o", o.output, "text", "json"); err != nil {
		return nil, err
	}
	if o.threads == 0 {
		o.threads = runtime.GOMAXPROCS(0)
	}
	dev, err := kernels.NewCPU(kernels.Config{Threads: o.threads, ISA: o.isa})
	if err != nil {
		return nil, usagef("%w", err)
	}
	return dev, nil
}

// stepReport is `bench step -o json`.
type stepReport struct {
	Model           string             `json:"model"`
	Program         string             `json:"program"`
	Device          string             `json:"device"`
	Batch           int                `json:"batch"`
	Seq             int                `json:"seq"`
	Threads         int                `json:"threads"`
	Precision       string             `json:"precision"`
	Iterations      int                `json:"iterations"`
	MSPerStep       float64            `json:"ms_per_step"` // median
	PhasesMS        map[string]float64 `json:"phases_ms"`   // medians
	TokensPerSecond float64            `json:"tokens_per_second"`
	GFLOPS          float64            `json:"gflops"`
	PeakGFLOPS      float64            `json:"peak_gflops"`
	PeakMemoryBytes int64              `json:"peak_memory_bytes"` // of the process
}

func newBenchStepCommand() *cobra.Command {
	o, model, batch, seq, inJob := &computeOptions{}, "", 0, 0, false
	cmd := &cobra.Command{
		Use:   "step",
		Short: "Time training steps of a model on this machine, by phase",
		Long: `Step trains a model on noise, alone in this process, and times forward, backward and optimizer update. Throughput
counts tokens, or images for a perceptron; gflops is the model's arithmetic over the whole step, and peak_gflops what
this machine's cores reach in registers at the same time.

With --in-job it asks what the machinery costs: the same training program runs alone, without a coordinator, and as a job
of one worker, in turn, and times its own steps; then both once more, sleeping where they computed, because computing
varies by more than the machinery costs.`,
		Example: "  farandole bench step --model gpt2-124m --batch 4 --seq 64\n  farandole bench step --model small --iters 200 --in-job",
		Args:    exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if batch < 1 || batch > 1<<20 || seq < 1 || seq > 1<<20 {
				return usagef("--batch and --seq want 1 or more, not %d and %d", batch, seq)
			}
			dev, err := o.open()
			if err != nil {
				return err
			}
			defer dev.Close()
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
			defer stop()
			if inJob {
				rep, err := benchMachinery(ctx, model, batch, seq, o)
				if err == nil && o.output == "json" {
					err = writeJSON(cmd.OutOrStdout(), rep)
				} else if err == nil {
					fmt.Fprintln(cmd.OutOrStdout(), rep)
				}
				return err
			}
			rep, err := benchStep(ctx, dev, model, batch, seq, o)
			if err != nil {
				return err
			}
			if o.output == "json" {
				return writeJSON(cmd.OutOrStdout(), rep)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s (%s), batch %d, seq %d, %s\n", rep.Model, rep.Program, rep.Batch, rep.Seq, rep.Device)
			fmt.Fprintf(cmd.OutOrStdout(), "%.2f ms a step: forward %.2f, backward %.2f, update %.2f\n", rep.MSPerStep,
				rep.PhasesMS["forward"], rep.PhasesMS["backward"], rep.PhasesMS["update"])
			fmt.Fprintf(cmd.OutOrStdout(), "%s tokens/s, %.1f GF/s of a peak of %.1f, %s of memory at most\n", siText(rep.TokensPerSecond),
				rep.GFLOPS, rep.PeakGFLOPS, bytesText(rep.PeakMemoryBytes))
			return nil
		},
	}
	o.addFlags(cmd, 10)
	cmd.Flags().BoolVar(&inJob, "in-job", false, "compare with the same steps in a job of one worker")
	cmd.Flags().StringVar(&model, "model", "small", strings.Join(nn.GPTNames(), ", "))
	cmd.Flags().IntVar(&batch, "batch", 4, "rows of a batch")
	cmd.Flags().IntVar(&seq, "seq", 64, "tokens of a row; 1 for a perceptron")
	return cmd
}

func benchStep(ctx context.Context, dev kernels.Device, name string, batch, seq int, o *computeOptions) (*stepReport, error) {
	model, err := nn.New(dev, name)
	if err != nil {
		return nil, usagef("%w", err)
	}
	if _, err := nn.MLPByName(name); err == nil {
		seq = 1
	}
	model.Init(1)
	opt, err := nn.NewAdamW(dev, model, nn.Hyper{Schedule: nn.Schedule{Peak: 1e-4}})
	if err != nil {
		return nil, failf("%w", err)
	}
	noise := model.RandomBatch(batch, seq, 1)
	phases := map[string][]int64{}
	var whole []int64
	for i := range o.warmup + o.iters {
		if ctx.Err() != nil {
			return nil, &exitError{exitInterrupted, fmt.Errorf("interrupted")}
		}
		ns, err := timeStep(dev, model, opt, noise, int64(i+1))
		if err != nil {
			return nil, usagef("%w", err)
		}
		if i < o.warmup {
			continue
		}
		total := int64(0)
		for phase, n := range ns {
			phases[phase] = append(phases[phase], n)
			total += n
		}
		whole = append(whole, total)
	}
	rep := &stepReport{Model: name, Program: model.Program(), Device: dev.Name(), Batch: batch, Seq: seq, Threads: o.threads,
		Precision: "f32", Iterations: o.iters, MSPerStep: median(whole) / 1e6, PhasesMS: map[string]float64{}}
	for phase, ns := range phases {
		rep.PhasesMS[phase] = median(ns) / 1e6
	}
	seconds := rep.MSPerStep / 1e3
	rep.TokensPerSecond = float64(batch*seq) / seconds
	rep.GFLOPS = model.Flops(batch, seq) / seconds / 1e9
	rep.PeakGFLOPS = kernels.PeakGFLOPS(o.threads, peakTime)
	rep.PeakMemoryBytes = peakMemory()
	return rep, nil
}

// timeStep is one training step and the nanoseconds of its phases.
func timeStep(dev kernels.Device, model nn.Model, opt *nn.AdamW, b nn.Batch, step int64) (map[string]int64, error) {
	ns := map[string]int64{}
	began := time.Now()
	lap := func(phase string) {
		now := time.Now()
		ns[phase] = now.Sub(began).Nanoseconds()
		began = now
	}
	dev.Zero(model.GradBuffer())
	if err := model.Forward(b, 1/float32(len(b.Targets))); err != nil {
		return nil, err
	}
	if err := dev.Sync(); err != nil {
		return nil, err
	}
	lap("forward")
	model.Backward()
	if err := dev.Sync(); err != nil {
		return nil, err
	}
	lap("backward")
	if _, err := opt.Update(step); err != nil {
		return nil, err
	}
	if err := dev.Sync(); err != nil {
		return nil, err
	}
	lap("update")
	return ns, nil
}

// peakMemory is the most memory that this process ever held.
func peakMemory() int64 {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return u.Maxrss << 10 // Linux counts KiB
}
