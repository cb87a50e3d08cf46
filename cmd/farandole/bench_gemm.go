package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/farandole-ml/farandole/kernels"
)

// gemmReport is one shape of `bench gemm -o json`.
type gemmReport struct {
	M          int          `json:"m"`
	N          int          `json:"n"`
	K          int          `json:"k"`
	Threads    int          `json:"threads"`
	Precision  string       `json:"precision"`
	Products   string       `json:"products"`
	Device     string       `json:"device"`
	Iterations int          `json:"iterations"`
	Layouts    []gemmLayout `json:"layouts"`
	TimeUS     float64      `json:"time_us"` // of the forward layout, as are the next three
	GFLOPS     float64      `json:"gflops"`
	PeakGFLOPS float64      `json:"peak_gflops,omitempty"`
	Checked    int          `json:"checked"` // elements compared with the reference
	Wrong      int          `json:"wrong"`   // elements whose bits differ from it
}

// gemmLayout is the product in one of the layouts of a linear layer. All figures are medians; the peak is measured before
// every iteration, and share is the median of their quotients, because the speed of a machine changes within seconds. An iteration is the
// second of two calls: those of a step follow each other as well.
type gemmLayout struct {
	Name       string  `json:"layout"`
	TimeUS     float64 `json:"time_us"`
	GFLOPS     float64 `json:"gflops"`
	PeakGFLOPS float64 `json:"peak_gflops,omitempty"`
	Share      float64 `json:"share,omitempty"`
}

// gemmPeakTime is how long the peak is measured before every iteration.
const gemmPeakTime = 3 * time.Millisecond

// gpt2Shapes are the linear layers of GPT-2 124M for 256 and 1024 tokens, and its output head.
var gpt2Shapes = [][3]int{
	{256, 2304, 768}, {256, 768, 768}, {256, 3072, 768}, {256, 768, 3072}, {256, 50257, 768},
	{1024, 2304, 768}, {1024, 768, 768}, {1024, 3072, 768}, {1024, 768, 3072},
}

func newBenchGEMMCommand() *cobra.Command {
	o, m, n, k, shapes := &computeOptions{}, 0, 0, 0, ""
	cmd := &cobra.Command{
		Use:   "gemm",
		Short: "Time a matrix product on this machine",
		Long: `Gemm times the products of a linear layer: forward, out[m,n] = x[m,k]·w[n,k]ᵀ; input, dx[m,k] = dout·w;
weight, dw[n,k] += doutᵀ·x; and backward, the last two as the training step runs them. It compares rows of the first bit by bit with the reference kernel. The share is
that of the peak, measured in registers before every iteration, which is the second of two calls.`,
		Example: "  farandole bench gemm -m 256 -n 2304 -k 768\n  farandole bench gemm --shapes gpt2",
		Args:    exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, d := range []int{m, n, k} {
				if d < 1 || d > 1<<16 {
					return usagef("-m, -n and -k want 1 to 65536, not %d", d)
				}
			}
			if err := oneOf("--shapes", shapes, "", "gpt2"); err != nil {
				return err
			}
			list := [][3]int{{m, n, k}}
			if shapes == "gpt2" {
				list = gpt2Shapes
			}
			return untilSignal(cmd.Context(), func(ctx context.Context) error {
				return benchGEMMs(ctx, cmd.OutOrStdout(), list, shapes != "", o)
			})
		},
	}
	o.addFlags(cmd, 20)
	cmd.Flags().IntVarP(&m, "m", "m", 256, "rows of x")
	cmd.Flags().IntVarP(&n, "n", "n", 2304, "rows of w")
	cmd.Flags().IntVarP(&k, "k", "k", 768, "columns of both")
	cmd.Flags().StringVar(&shapes, "shapes", "", "gpt2: the layers of GPT-2 124M instead of one shape")
	return cmd
}

// benchGEMMs times and prints the shapes; JSON is one report, or a list of them.
func benchGEMMs(ctx context.Context, w io.Writer, shapes [][3]int, many bool, o *computeOptions) error {
	dev, err := o.open()
	if err != nil {
		return err
	}
	defer dev.Close()
	var all []*gemmReport
	wrong := 0
	for _, s := range shapes {
		rep, err := benchGEMM(ctx, dev, s[0], s[1], s[2], o)
		if err != nil {
			return err
		}
		all, wrong = append(all, rep), wrong+rep.Wrong
		if o.output != "json" {
			rep.print(w)
		}
	}
	switch {
	case o.output == "json" && many:
		err = writeJSON(w, all)
	case o.output == "json":
		err = writeJSON(w, all[0])
	}
	if err == nil && wrong > 0 {
		err = failf("bench gemm: %s: do not trust this build or this machine", count(int64(wrong), "wrong element"))
	}
	return err
}

func (r *gemmReport) print(w io.Writer) {
	fmt.Fprintf(w, "%d×%d×%d on %s; %d of %d elements wrong\n", r.M, r.N, r.K, r.Device, r.Wrong, r.Checked)
	for _, l := range r.Layouts {
		fmt.Fprintf(w, "  %-9s %8s us  %6.1f GF/s", l.Name, microsText(l.TimeUS), l.GFLOPS)
		if l.PeakGFLOPS > 0 {
			fmt.Fprintf(w, ", %4.1f%% of a peak of %.1f", 100*l.Share, l.PeakGFLOPS)
		}
		fmt.Fprintln(w)
	}
}

// checkedRows is how many rows of a product are compared: the reference is slow.
const checkedRows = 4

func benchGEMM(ctx context.Context, dev kernels.Device, m, n, k int, o *computeOptions) (*gemmReport, error) {
	// What follows keeps x and w twice or three times, and the product twice.
	if err := kernels.CheckRoom(3*(m+n)*k + 2*m*n); err != nil {
		return nil, usagef("-m %d -n %d -k %d: %s", m, n, k, strings.TrimPrefix(err.Error(), "kernels: "))
	}
	r := rand.New(rand.NewPCG(1, 2))
	x, w := make([]float32, m*k), make([]float32, n*k)
	for _, b := range [][]float32{x, w} {
		for i := range b {
			b[i] = r.Float32() - 0.5
		}
	}
	dx, dw, out, err := gemmBuffers(dev, x, w, m*n)
	if err != nil {
		return nil, failf("%w", err)
	}
	gx, gw, _, err := gemmBuffers(dev, x, w, 1)
	if err != nil {
		return nil, failf("%w", err)
	}
	rep := &gemmReport{M: m, N: n, K: k, Threads: o.threads, Precision: o.precision, Products: o.products, Device: dev.Name(), Iterations: o.iters}
	flops := 2 * float64(m) * float64(n) * float64(k)
	for _, l := range []struct {
		name  string
		flops float64
		call  func()
	}{
		{"forward", flops, func() { dev.Linear(out, dx, dw, nil, m, n, k) }},
		{"input", flops, func() { dev.LinearBackwardInput(gx, out, dw, m, n, k) }},
		{"weight", flops, func() { dev.LinearBackward(nil, gw, nil, out, dx, dw, m, n, k) }},
		{"backward", 2 * flops, func() { dev.LinearBackward(gx, gw, nil, out, dx, dw, m, n, k) }},
	} {
		layout, err := timeLayout(ctx, dev, l.flops, l.call, o)
		if err != nil {
			return nil, err
		}
		layout.Name = l.name
		rep.Layouts = append(rep.Layouts, layout)
	}
	first := rep.Layouts[0]
	rep.TimeUS, rep.GFLOPS, rep.PeakGFLOPS = first.TimeUS, first.GFLOPS, first.PeakGFLOPS
	return rep, rep.check(dev, out, x, w, o)
}

func timeLayout(ctx context.Context, dev kernels.Device, flops float64, call func(), o *computeOptions) (l gemmLayout, err error) {
	var ns, peaks, shares []float64
	for i := range o.warmup + o.iters {
		if ctx.Err() != nil {
			return l, interrupted()
		}
		peak := o.peak(dev, gemmPeakTime)
		call() // the threads slept meanwhile, or computed something else
		if err := dev.Sync(); err != nil {
			return l, failf("%w", err)
		}
		began := time.Now()
		call()
		if err := dev.Sync(); err != nil {
			return l, failf("%w", err)
		}
		if took := float64(time.Since(began).Nanoseconds()); i >= o.warmup {
			ns, peaks, shares = append(ns, took), append(peaks, peak), append(shares, flops/took/peak)
		}
	}
	l = gemmLayout{TimeUS: median(ns) / 1e3, PeakGFLOPS: median(peaks)}
	if l.PeakGFLOPS > 0 {
		l.Share = median(shares)
	}
	l.GFLOPS = flops / l.TimeUS / 1e3
	return l, nil
}

// check compares the last rows of out with the reference: edges are where kernels err. A class that the CPU does not have
// leaves nothing to compare bits with.
func (r *gemmReport) check(dev kernels.Device, out kernels.Buffer, x, w []float32, o *computeOptions) error {
	if o.device != "cpu" && dev.Class() != kernels.ClassF32 {
		return nil
	}
	rows := min(r.M, checkedRows)
	ref, err := kernels.NewCPU(kernels.Config{ISA: "go", Threads: 1, Precision: o.precision, Products: o.products})
	if err != nil {
		return failf("%w", err)
	}
	defer ref.Close()
	dx, dw, want, err := gemmBuffers(ref, x[(r.M-rows)*r.K:], w, rows*r.N)
	if err != nil {
		return failf("%w", err)
	}
	ref.Linear(want, dx, dw, nil, rows, r.N, r.K)
	got := make([]float32, r.M*r.N)
	if err := dev.Download(got, out); err != nil {
		return failf("%w", err)
	}
	got = got[(r.M-rows)*r.N:]
	for i, v := range ref.Host(want) {
		if got[i] != v {
			r.Wrong++
		}
	}
	r.Checked = rows * r.N
	return nil
}

func gemmBuffers(d kernels.Device, x, w []float32, outLen int) (dx, dw, out kernels.Buffer, err error) {
	if dx, err = d.Alloc(len(x)); err != nil {
		return nil, nil, nil, err
	}
	if dw, err = d.Alloc(len(w)); err != nil {
		return nil, nil, nil, err
	}
	if out, err = d.Alloc(outLen); err != nil {
		return nil, nil, nil, err
	}
	d.Upload(dx, x)
	d.Upload(dw, w)
	return dx, dw, out, nil
}
