package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/farandole-ml/farandole/kernels"
	"github.com/farandole-ml/farandole/kernels/nn"
)

// stepPeakTime is how long the machine's peak is measured before every phase of a step: its speed changes within seconds.
const stepPeakTime = 5 * time.Millisecond

// triadRounds is how often the memory's bandwidth is measured; the best counts.
const triadRounds = 8

// computeOptions are the flags that `bench step` and `bench gemm` share.
type computeOptions struct {
	device        string
	threads       int
	pin           bool
	isa           string
	precision     string
	products      string
	iters, warmup int
	output        string
}

func (o *computeOptions) addFlags(cmd *cobra.Command, iters int) {
	f := cmd.Flags()
	f.StringVar(&o.device, "device", "cpu", "where to compute: cpu or cuda")
	f.IntVar(&o.threads, "threads", 0, "threads (0: one per core)")
	f.BoolVar(&o.pin, "pin", false, "bind each thread to a processor")
	f.StringVar(&o.isa, "isa", "", "instruction set: "+strings.Join(kernels.ISAs(), ", ")+" (default: the best here)")
	f.StringVar(&o.precision, "precision", kernels.ClassF32, "f32, or bf16 for products of bfloat16")
	f.StringVar(&o.products, "products", kernels.ProductsOwn, "what multiplies with --precision bf16: own, amx on a CPU, or cublaslt on a GPU")
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
	if err := oneOf("--precision", o.precision, kernels.ClassF32, kernels.ClassBF16); err != nil {
		return nil, err
	}
	if err := oneOf("--products", o.products, kernels.AllProducts()...); err != nil {
		return nil, err
	}
	if err := oneOf("--device", o.device, "cpu", "cuda"); err != nil {
		return nil, err
	}
	if err := oneOf("--isa", o.isa, append(kernels.ISAs(), "")...); err != nil {
		return nil, err
	}
	if o.device != "cpu" && (o.isa != "" || o.pin) {
		return nil, usagef("--isa and --pin are for the CPU: leave them out with --device %s", o.device)
	}
	if o.threads == 0 {
		o.threads = kernels.Processors()
	}
	dev, err := kernels.Open(o.device, kernels.Config{Threads: o.threads, ISA: o.isa, Precision: o.precision, Products: o.products, Pin: o.pin})
	if err != nil {
		return nil, usagef("--%s", strings.TrimPrefix(err.Error(), "kernels: "))
	}
	return dev, nil
}

// patience is how long bench step and bench gemm wait, after a signal, for what they measure.
const patience = time.Second

// untilSignal runs f until SIGINT or SIGTERM. One operation of a large model takes minutes and cannot be broken off, so that f, which
// is given the context, is left behind where it does not end: the process does.
func untilSignal(ctx context.Context, f func(ctx context.Context) error) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	select {
	case err := <-done:
		return err
	case <-time.After(patience):
		return interrupted()
	}
}

func interrupted() error { return &exitError{exitInterrupted, errors.New("interrupted")} }

// peak is what the machine's cores reach in registers, in GFLOP/s, measured for d; 0 for a GPU, whose peak nobody measures here.
func (o *computeOptions) peak(dev kernels.Device, d time.Duration) float64 {
	if o.device != "cpu" {
		return 0
	}
	return kernels.PeakGFLOPS(kernels.Config{Threads: o.threads, ISA: o.isa, Precision: o.precision, Products: o.products}, d)
}

// stepReport is `bench step -o json`. What compares with the peak and the memory of this machine's processors is left out for a GPU.
type stepReport struct {
	Model           string             `json:"model"`
	Program         string             `json:"program"`
	Device          string             `json:"device"`
	Batch           int                `json:"batch"`
	Seq             int                `json:"seq"`
	Threads         int                `json:"threads"`
	Precision       string             `json:"precision"`
	Class           string             `json:"class"` // the device's
	Products        string             `json:"products"`
	Iterations      int                `json:"iterations"`
	MSPerStep       float64            `json:"ms_per_step"` // median
	PhasesMS        map[string]float64 `json:"phases_ms"`   // medians
	TokensPerSecond float64            `json:"tokens_per_second"`
	GFLOPS          float64            `json:"gflops"`
	PeakGFLOPS      float64            `json:"peak_gflops,omitempty"` // median of what was measured between the phases
	Share           float64            `json:"share,omitempty"`       // of the peak: the median of the steps' own quotients
	UpdateGBs       float64            `json:"update_gbs"`            // bytes that the update must move in its time
	TriadGBs        float64            `json:"triad_gbs,omitempty"`   // what a = b + c reached after the steps
	RooflineShare   float64            `json:"roofline_share,omitempty"`
	PeakMemoryBytes int64              `json:"peak_memory_bytes"` // of the process
}

// updateBytes is what an update moves for one parameter: the norm reads the gradient, AdamW reads parameter, gradient and both
// moments and writes all but the gradient.
const updateBytes = 4 + 28

// summarize fills in what follows from the steps. The roofline is the arithmetic at the peak, then the update's bytes at
// the bandwidth of the triad.
func (r *stepReport) summarize(model nn.Model, batch, seq int, whole []int64, peaks []float64) {
	flops := model.Flops(batch, seq)
	r.MSPerStep = median(whole) / 1e6
	seconds := r.MSPerStep / 1e3
	r.TokensPerSecond = float64(batch*seq) / seconds
	r.GFLOPS = flops / seconds / 1e9
	bytes := updateBytes * float64(model.ParamBuffer().Len())
	r.UpdateGBs = bytes / r.PhasesMS["update"] / 1e6
	if r.PeakGFLOPS = median(peaks); r.PeakGFLOPS == 0 {
		return
	}
	shares := make([]float64, len(whole))
	for i, ns := range whole {
		shares[i] = flops / float64(ns) / peaks[i]
	}
	r.Share = median(shares)
	r.TriadGBs = kernels.TriadGBs(r.Threads, triadRounds)
	atPeak := r.GFLOPS / r.Share // as fast as the machine was during the steps
	r.RooflineShare = (flops/atPeak + bytes/r.TriadGBs) / 1e9 / seconds
}

func newBenchStepCommand() *cobra.Command {
	o, model, batch, seq, inJob, recompute := &computeOptions{}, "", 0, 0, false, false
	cmd := &cobra.Command{
		Use:   "step",
		Short: "Time training steps of a model on this machine, by phase",
		Long: `Step trains a model on noise, alone in this process, and times forward, backward and optimizer update. Throughput
counts tokens, or images for a perceptron; gflops is the model's arithmetic over the whole step, and peak_gflops what
this machine's cores reach in registers, measured before every phase. The roofline is that arithmetic at the peak and the
update's bytes at the bandwidth of a = b + c. The output head runs forward and backward in the first phase.

With --in-job it asks what the machinery costs: the same training program runs alone, without a coordinator, and as a job
of one worker, in turn, and times its own steps; then both once more, sleeping where they computed, because computing
varies by more than the machinery costs.`,
		Example: "  farandole bench step --model gpt2-124m --batch 4 --seq 64\n  farandole bench step --model small --iters 200 --in-job",
		Args:    exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if batch < 1 || batch > 1<<20 || seq < 1 || seq > 1<<20 {
				return usagef("--batch and --seq want 1 or more, not %d and %d", batch, seq)
			}
			if inJob && (o.device != "cpu" || o.isa != "" || o.pin) {
				return usagef("--in-job times the program that trains on the CPU as a job does by itself: leave --device, --isa and --pin out")
			}
			if inJob && recompute {
				return usagef("--in-job times the program that trains, which has no --recompute: leave one of them out")
			}
			if inJob {
				return benchInJob(cmd, model, batch, seq, o)
			}
			return untilSignal(cmd.Context(), func(ctx context.Context) error {
				dev, err := o.open()
				if err != nil {
					return err
				}
				defer dev.Close()
				rep, err := benchStep(ctx, dev, model, batch, seq, recompute, o)
				if err != nil {
					return err
				}
				if o.output == "json" {
					return writeJSON(cmd.OutOrStdout(), rep)
				}
				rep.print(cmd.OutOrStdout())
				return nil
			})
		},
	}
	o.addFlags(cmd, 10)
	cmd.Flags().BoolVar(&inJob, "in-job", false, "compare with the same steps in a job of one worker")
	cmd.Flags().BoolVar(&recompute, "recompute", false, "compute activations twice instead of keeping them; the arithmetic counts once")
	cmd.Flags().StringVar(&model, "model", "small", strings.Join(slices.Concat(nn.GPTNames(), nn.MLPNames(), nn.CNNNames()), ", "))
	cmd.Flags().IntVar(&batch, "batch", 4, "rows of a batch")
	cmd.Flags().IntVar(&seq, "seq", 64, "tokens of a row; 1 for a perceptron")
	return cmd
}

// benchInJob waits for the processes that it started, whatever the signal.
func benchInJob(cmd *cobra.Command, model string, batch, seq int, o *computeOptions) error {
	dev, err := o.open() // for its refusals
	if err != nil {
		return err
	}
	defer dev.Close()
	ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	rep, err := benchMachinery(ctx, model, batch, seq, o)
	if err != nil {
		return err
	}
	if o.output == "json" {
		return writeJSON(cmd.OutOrStdout(), rep)
	}
	fmt.Fprintln(cmd.OutOrStdout(), rep)
	return nil
}

func (r *stepReport) print(w io.Writer) {
	fmt.Fprintf(w, "%s (%s), batch %d, seq %d, %s, class %s\n", r.Model, r.Program, r.Batch, r.Seq, r.Device, r.Class)
	fmt.Fprintf(w, "%.2f ms a step: forward %.2f, backward %.2f, update %.2f\n", r.MSPerStep, r.PhasesMS["forward"], r.PhasesMS["backward"], r.PhasesMS["update"])
	if r.PeakGFLOPS == 0 {
		fmt.Fprintf(w, "%s tokens/s, %.1f GF/s; update at %.1f GB/s\n", siText(r.TokensPerSecond), r.GFLOPS, r.UpdateGBs)
		return
	}
	fmt.Fprintf(w, "%s tokens/s, %.1f GF/s, %.0f%% of the peak (%.1f), %.0f%% of the roofline\n", siText(r.TokensPerSecond), r.GFLOPS, 100*r.Share,
		r.PeakGFLOPS, 100*r.RooflineShare)
	fmt.Fprintf(w, "update at %.1f GB/s, triad %.1f GB/s; %s of memory at most\n", r.UpdateGBs, r.TriadGBs, bytesText(r.PeakMemoryBytes))
}

func benchStep(ctx context.Context, dev kernels.Device, name string, batch, seq int, recompute bool, o *computeOptions) (*stepReport, error) {
	cfg, err := nn.ConfigByName(name)
	switch {
	case err != nil:
		seq = 1 // no GPT
	case seq > cfg.Context:
		return nil, usagef("--seq %d: model %s takes 1 to %d tokens", seq, name, cfg.Context)
	}
	model, err := nn.New(dev, name)
	if err != nil {
		return nil, usagef("%w", err)
	}
	if recompute {
		gpt, ok := model.(*nn.GPT)
		if !ok {
			return nil, usagef("--recompute is for models of the GPT family, which %s is not", name)
		}
		gpt.Recompute(true)
	}
	opt, err := nn.NewAdamW(dev, model, nn.Hyper{Schedule: nn.Schedule{Peak: 1e-4}})
	if err != nil {
		return nil, usagef("%w", err)
	}
	model.Init(1)
	noise := model.RandomBatch(batch, seq, 1)
	phases := map[string][]int64{}
	var whole []int64
	var peaks []float64
	for i := range o.warmup + o.iters {
		if ctx.Err() != nil {
			return nil, interrupted()
		}
		ns, peak, err := timeStep(dev, model, opt, noise, int64(i+1), o)
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
		whole, peaks = append(whole, total), append(peaks, peak)
	}
	rep := &stepReport{Model: name, Program: model.Program(), Device: dev.Name(), Batch: batch, Seq: seq, Threads: o.threads,
		Precision: o.precision, Class: dev.Class(), Products: o.products, Iterations: o.iters, PhasesMS: map[string]float64{}, PeakMemoryBytes: peakMemory()}
	for phase, ns := range phases {
		rep.PhasesMS[phase] = median(ns) / 1e6
	}
	rep.summarize(model, batch, seq, whole, peaks)
	return rep, nil
}

// timeStep is one training step: the nanoseconds of its phases, and the machine's peak measured around them. The first phase
// has the output head's backward pass in it, because the model runs it there.
func timeStep(dev kernels.Device, model nn.Model, opt *nn.AdamW, b nn.Batch, step int64, o *computeOptions) (ns map[string]int64, peak float64, err error) {
	ns = map[string]int64{}
	phases := []struct {
		name string
		run  func() error
	}{
		{"forward", func() error {
			dev.Zero(model.GradBuffer())
			return model.Forward(b, 1/float32(len(b.Targets)))
		}},
		{"backward", func() error { model.Backward(); return nil }},
		{"update", func() error { _, err := opt.Update(step); return err }},
	}
	for _, p := range phases {
		peak += o.peak(dev, stepPeakTime) / float64(len(phases))
		began := time.Now()
		if err := p.run(); err != nil {
			return nil, 0, err
		}
		if err := dev.Sync(); err != nil {
			return nil, 0, err
		}
		ns[p.name] = time.Since(began).Nanoseconds()
	}
	return ns, peak, nil
}

// peakMemory is the most memory that this process ever held.
func peakMemory() int64 {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return u.Maxrss << 10 // Linux counts KiB
}
