//go:build cuda

package main

import (
	"context"
	"errors"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"github.com/farandole-ml/farandole/kernels"
	"github.com/farandole-ml/farandole/kernels/cuda/gpus"
)

// checkGPUs says what NVML sees.
func checkGPUs(context.Context) finding { return gpuFinding(gpus.List(nvml.New())) }

func gpuFinding(host gpus.Host, err error) finding {
	switch {
	case errors.Is(err, kernels.ErrNoGPU):
		return ok("GPUs", "%v: workers compute on the CPU", err)
	case err != nil:
		return warn("GPUs", "look at `nvidia-smi`; workers with --device cpu do not need them", "%v", err)
	}
	return ok("GPUs", "%v", host)
}
