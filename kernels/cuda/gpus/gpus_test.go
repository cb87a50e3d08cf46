//go:build cuda

package gpus

import (
	"testing"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock/dgxa100"
	"github.com/stretchr/testify/require"

	"github.com/farandole-ml/farandole/kernels"
)

func TestList(t *testing.T) {
	h, err := List(dgxa100.New())
	require.NoError(t, err)
	require.Len(t, h.GPUs, 8)
	require.Equal(t, "8 × Mock NVIDIA A100-SXM4-40GB with 40 GiB, driver 550.54.15", h.String())

	h.GPUs = []GPU{{"H100", 80 << 30}, {"A100", 40 << 30}, {"H100", 80 << 30}}
	require.Equal(t, "1 × A100 with 40 GiB and 2 × H100 with 80 GiB, driver 550.54.15", h.String())
}

func TestListWithoutGPUs(t *testing.T) {
	ended := 0
	lib := &mock.Interface{
		InitFunc:                   func() nvml.Return { return nvml.ERROR_LIBRARY_NOT_FOUND },
		ShutdownFunc:               func() nvml.Return { ended++; return nvml.SUCCESS },
		SystemGetDriverVersionFunc: func() (string, nvml.Return) { return "550", nvml.SUCCESS },
		DeviceGetCountFunc:         func() (int, nvml.Return) { return 0, nvml.SUCCESS },
	}
	_, err := List(lib)
	require.ErrorIs(t, err, kernels.ErrNoGPU)
	require.EqualError(t, err, "no GPU: NVML: this host has no NVIDIA driver (libnvidia-ml.so.1 is not there)")
	require.Zero(t, ended)

	lib.InitFunc = func() nvml.Return { return nvml.SUCCESS }
	_, err = List(lib)
	require.ErrorIs(t, err, kernels.ErrNoGPU)
	require.EqualError(t, err, "no GPU: NVML finds none, with driver 550")
	require.Equal(t, 1, ended)

	lib.DeviceGetCountFunc = func() (int, nvml.Return) { return 1, nvml.SUCCESS }
	lib.DeviceGetHandleByIndexFunc = func(int) (nvml.Device, nvml.Return) { return nil, nvml.ERROR_GPU_IS_LOST }
	_, err = List(lib)
	require.ErrorContains(t, err, "NVML: GPU 0: ")
	require.NotErrorIs(t, err, kernels.ErrNoGPU, "there is one, and it is ill")
}
