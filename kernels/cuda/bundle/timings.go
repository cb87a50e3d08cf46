package main

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// benchmarks runs those of kernels/cuda whose names match, with products of one precision and with settings of the environment, NAME=VALUE, which
// the figures' names say.
func benchmarks(precision, pattern string, settings ...string) func(context.Context, *bench, *report) result {
	return func(ctx context.Context, b *bench, r *report) result {
		argv := []string{b.program("cuda.test"), "-test.run", "^$", "-test.bench", pattern, "-gpu.precision", precision, "-test.v"}
		if b.products != "" {
			argv = append(argv, "-gpu.products", b.products)
		}
		if b.tiny {
			argv = append(argv, "-gpu.tiny", "-test.benchtime", "1x")
		} else {
			argv = append(argv, "-test.benchtime", "100ms")
		}
		defer b.with(settings)()
		return b.figures(ctx, r, named(b.by(precision), settings), argv...)
	}
}

// noGraphs has the device launch call by call, for comparison.
const noGraphs = "FARANDOLE_CUDA_GRAPHS=0"

// noWGMMA has products of bfloat16 by mma.sync where they would be by wgmma, for comparison.
const noWGMMA = "FARANDOLE_CUDA_WGMMA=0"

// withoutWGMMA does a part where products are by wgmma, as the steps before it found, or where those are missing.
func withoutWGMMA(do func(context.Context, *bench, *report) result) func(context.Context, *bench, *report) result {
	return func(ctx context.Context, b *bench, r *report) result {
		if r.ClassBF16 != "" && !strings.HasPrefix(r.ClassBF16, "bf16-wgmma-") {
			return nothing("class %s: no product is by wgmma here", r.ClassBF16)
		}
		return do(ctx, b, r)
	}
}

// with gives programs settings of the environment, until the function that it returns is called.
func (b *bench) with(settings []string) (end func()) {
	env := b.env
	b.env = append(slices.Clip(env), settings...)
	return func() { b.env = env }
}

// named is a name of figures and the settings that they were measured with.
func named(name string, settings []string) string {
	return strings.Join(append([]string{name}, settings...), ", ")
}

// steps times whole steps, with settings of the environment, NAME=VALUE, which their names say.
func steps(precision string, size batch, settings ...string) func(context.Context, *bench, *report) result {
	return func(ctx context.Context, b *bench, r *report) result {
		s := sizesOf(b.options)
		defer b.with(settings)()
		argv := []string{b.program("farandole"), "bench", "step", "--device", "cuda", "--precision", precision, "--model", s.model,
			"--batch", strconv.Itoa(size.rows), "--seq", strconv.Itoa(size.seq), "--iters", strconv.Itoa(s.iterations), "--warmup", "2", "-o", "json"}
		if b.products != "" {
			argv = append(argv, "--products", b.products)
		}
		e := b.run(ctx, timeLeft(ctx), argv...)
		var rep struct {
			Class  string             `json:"class"`
			MS     float64            `json:"ms_per_step"`
			Tokens float64            `json:"tokens_per_second"`
			GFLOPS float64            `json:"gflops"`
			Phases map[string]float64 `json:"phases_ms"`
		}
		if e.err == nil {
			e.err = readJSON(e.output, &rep)
		}
		if e.err != nil {
			return fail(e, "%v", e.err)
		}
		figures := map[string]float64{"ms": rep.MS, "tokens/s": rep.Tokens, "TFLOP/s": rep.GFLOPS / 1e3}
		for phase, ms := range rep.Phases {
			figures[phase+" ms"] = ms
		}
		if precision == "bf16" && b.products == "" && len(settings) == 0 {
			r.ClassBF16 = rep.Class
		}
		r.add("", map[string]map[string]float64{named(stepName(b.by(precision), size), settings): figures})
		return pass("class %s: %.1f ms a step, %.0f tokens/s", rep.Class, rep.MS, rep.Tokens)
	}
}

// stepName is a step's name among the figures.
func stepName(precision string, size batch) string {
	return fmt.Sprintf("step %s, %d × %d", precision, size.rows, size.seq)
}

// torch times the same model's step by PyTorch.
func torch(precision string, compile bool, size batch) func(context.Context, *bench, *report) result {
	return func(ctx context.Context, b *bench, r *report) result {
		if e := b.run(ctx, 40*time.Second, "python3", "-c", "import torch; assert torch.cuda.is_available()"); e.err != nil {
			return nothing("python3 has no torch with CUDA")
		}
		argv := []string{"python3", filepath.Join(b.bundle, torchScript), "--device", "cuda", "--precision", precision,
			"--batch", strconv.Itoa(size.rows), "--seq", strconv.Itoa(size.seq), "--steps", "10"}
		if compile {
			argv = append(argv, "--compile")
		}
		e := b.run(ctx, timeLeft(ctx), argv...)
		var rep struct {
			Peer   string  `json:"peer"`
			MS     float64 `json:"ms_per_step"`
			Tokens float64 `json:"tokens_per_second"`
		}
		if e.err == nil {
			lines := last(e.output)
			e.err = readJSON(lines[len(lines)-1], &rep)
		}
		if e.err != nil {
			return fail(e, "%v", e.err)
		}
		r.add("", map[string]map[string]float64{torchName(precision, compile, size): {"ms": rep.MS, "tokens/s": rep.Tokens}})
		return pass("%s: %.1f ms a step, %.0f tokens/s", rep.Peer, rep.MS, rep.Tokens)
	}
}

func torchName(precision string, compile bool, size batch) string {
	how := "eager"
	if compile {
		how = "compiled"
	}
	return fmt.Sprintf("PyTorch %s %s, %d × %d", how, precision, size.rows, size.seq)
}
