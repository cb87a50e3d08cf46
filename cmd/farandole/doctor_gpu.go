//go:build cuda

package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"github.com/farandole-ml/farandole/kernels"
	"github.com/farandole-ml/farandole/kernels/cuda/gpus"
)

// checkGPUs says what NVML sees, and then how each GPU is.
func checkGPUs(context.Context) []finding {
	lib := nvml.New()
	findings := []finding{gpuFinding(gpus.List(lib))}
	readings, lost, _ := gpus.Read(lib) // what keeps it from answering was found already
	for i, r := range readings {
		findings = append(findings, healthFinding(i, r, lost[i]))
	}
	return findings
}

func gpuFinding(host gpus.Host, err error) finding {
	switch {
	case errors.Is(err, kernels.ErrNoGPU):
		return ok("GPUs", "%v: workers compute on the CPU", err)
	case err != nil:
		return warn("GPUs", "look at `nvidia-smi`; workers with --device cpu do not need them", "%v", err)
	}
	return ok("GPUs", "%v", host)
}

func healthFinding(i int, r kernels.Reading, lost error) finding {
	check := fmt.Sprintf("GPU %d", i)
	if lost != nil {
		return warn(check, "look at `nvidia-smi` and the kernel's log; a lost GPU needs its host restarted, or leave it out by CUDA_VISIBLE_DEVICES", "%v", lost)
	}
	if concerns := r.Concerns(); len(concerns) > 0 {
		return warn(check, "it may be slow or compute wrongly: look at `nvidia-smi -q -d PERFORMANCE,ECC,TEMPERATURE`, or leave it out by CUDA_VISIBLE_DEVICES",
			"%v; %s", r, strings.Join(concerns, "; "))
	}
	return ok(check, "%v", r)
}
