package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// bar is what a GPU has to show, and what this one did.
type bar struct {
	Bar     string `json:"bar"`
	Figure  string `json:"figure"` // empty without one
	Verdict string `json:"verdict"`
}

// The bars.
const (
	leastTokens    = 600_000 // a second, of GPT-2 124M in bf16 at batch 32 × 1024, on one H200
	leastBandwidth = 0.80    // of the copy's
	leastAttention = 0.50    // of the bf16 products' rate
	mostAdditions  = 0.02    // of a step
)

// treeAdditions is how many gradients a worker that is alone adds in a step of the default eight shards.
const treeAdditions = 7

func (r *report) bars() []bar {
	s := sizesOf(options{tiny: r.Tiny})
	list := []bar{
		r.check("the suite is green on the real driver", "suite"),
		r.check("f32: the CPU's bits, kernel by kernel and after steps", "hashes"),
		r.check("f32: two processes on one GPU, one killed, give the CPU's weights", "training"),
		r.inMemory(),
		r.check("bf16: two processes on one GPU, one killed, give the weights of one alone", "training-bf16"),
	}
	bf16, compiled := r.Figures[stepName("bf16", s.large)], r.Figures[torchName("bf16", true, s.large)]
	step := bf16
	if step == nil {
		step = r.Figures[stepName("f32", s.large)]
	}
	list = append(list,
		r.least(fmt.Sprintf("GPT-2 124M bf16, 32 × 1024: at least %d tokens/s on an H200", leastTokens), bf16["tokens/s"], leastTokens, "%.0f tokens/s"),
		r.least("the same, against PyTorch compiled: faster", ratio(bf16["tokens/s"], compiled["tokens/s"]), 1, "%.2f times"),
	)
	copied := r.Figures["f32 Copy/device"]["GB/s"]
	for _, name := range slices.Sorted(maps.Keys(r.Figures)) {
		if kernel, ok := strings.CutPrefix(name, "f32 Memory/"); ok {
			list = append(list, r.least(fmt.Sprintf("%s: at least %.0f %% of the copy's bandwidth", kernel, 100*leastBandwidth),
				ratio(r.Figures[name]["GB/s"], copied), leastBandwidth, "%.2f of it"))
		}
	}
	if copied == 0 {
		list = append(list, r.least("memory-bound kernels: at least 80 % of the copy's bandwidth", 0, leastBandwidth, ""))
	}
	rate := 0.0
	for name, f := range r.Figures {
		if strings.HasPrefix(name, "bf16 Product/") {
			rate = max(rate, f["TFLOP/s"])
		}
	}
	for _, way := range []string{"forward", "backward"} {
		list = append(list, r.least(fmt.Sprintf("attention bf16 %s: at least %.0f %% of the best bf16 product's rate", way, 100*leastAttention),
			ratio(r.Figures["bf16 Attention/"+way]["TFLOP/s"], rate), leastAttention, "%.2f of it"))
	}
	share := ratio(treeAdditions*r.Figures["f32 Memory/TreeAddition"]["us"]/1e3, step["ms"])
	list = append(list, r.atMost(fmt.Sprintf("the tree's %d additions of eight shards: at most %.0f %% of a step", treeAdditions, 100*mostAdditions), share, mostAdditions))
	return list
}

func ratio(a, b float64) float64 {
	if b == 0 {
		return 0
	}
	return a / b
}

// check is a bar that a part's verdict decides.
func (r *report) check(what, name string) bar {
	for _, p := range r.Parts {
		if p.Name != name {
			continue
		}
		b := bar{Bar: what, Figure: p.Note, Verdict: p.Verdict}
		if r.Emulated && p.Verdict == passed {
			b.Figure, b.Verdict = "emulated: "+b.Figure, empty
		}
		return b
	}
	return bar{Bar: what, Verdict: empty}
}

// inMemory is the bar for where the gradients of part training were reduced.
func (r *report) inMemory() bar {
	b := r.check("the same: their gradients are reduced in the GPU's memory, by CUDA IPC, in every generation", "training")
	if b.Verdict == passed && !strings.Contains(b.Figure, inGPUMemory) {
		b.Verdict = missed
	}
	return b
}

// least is a bar for a figure, 0 if there is none.
func (r *report) least(what string, x, least float64, format string) bar {
	return r.measured(what, x, x >= least, format)
}

func (r *report) atMost(what string, x, most float64) bar {
	return r.measured(what, 100*x, x <= most, "%.2g %%")
}

func (r *report) measured(what string, x float64, reached bool, format string) bar {
	b := bar{Bar: what, Verdict: empty}
	switch {
	case x == 0:
	case r.Emulated || r.Tiny:
		b.Figure = "emulated"
	default:
		b.Figure, b.Verdict = fmt.Sprintf(format, x), missed
		if reached {
			b.Verdict = passed
		}
	}
	return b
}
