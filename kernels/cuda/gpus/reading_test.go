//go:build cuda

package gpus

import (
	"math"
	"testing"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock"
	"github.com/stretchr/testify/require"

	"github.com/farandole-ml/farandole/kernels"
)

// busy is a GPU in the middle of a training run.
func busy() *mock.Device {
	return &mock.Device{
		GetMemoryInfoFunc: func() (nvml.Memory, nvml.Return) {
			return nvml.Memory{Total: 80 << 30, Used: 61 << 30, Free: 19 << 30}, nvml.SUCCESS
		},
		GetUtilizationRatesFunc: func() (nvml.Utilization, nvml.Return) {
			return nvml.Utilization{Gpu: 93, Memory: 40}, nvml.SUCCESS
		},
		GetPowerUsageFunc:         func() (uint32, nvml.Return) { return 640_123, nvml.SUCCESS },
		GetEnforcedPowerLimitFunc: func() (uint32, nvml.Return) { return 700_000, nvml.SUCCESS },
		GetTemperatureFunc:        func(nvml.TemperatureSensors) (uint32, nvml.Return) { return 71, nvml.SUCCESS },
		GetTemperatureThresholdFunc: func(kind nvml.TemperatureThresholds) (uint32, nvml.Return) {
			if kind != nvml.TEMPERATURE_THRESHOLD_SLOWDOWN {
				return 0, nvml.ERROR_INVALID_ARGUMENT
			}
			return 89, nvml.SUCCESS
		},
		GetClockInfoFunc:    func(nvml.ClockType) (uint32, nvml.Return) { return 1750, nvml.SUCCESS },
		GetMaxClockInfoFunc: func(nvml.ClockType) (uint32, nvml.Return) { return 1980, nvml.SUCCESS },
		GetTotalEccErrorsFunc: func(kind nvml.MemoryErrorType, _ nvml.EccCounterType) (uint64, nvml.Return) {
			if kind == nvml.MEMORY_ERROR_TYPE_CORRECTED {
				return 2, nvml.SUCCESS
			}
			return 0, nvml.SUCCESS
		},
		GetCurrentClocksThrottleReasonsFunc: func() (uint64, nvml.Return) { return nvml.ClocksThrottleReasonSwPowerCap, nvml.SUCCESS },
	}
}

// host is NVML with these GPUs.
func host(all ...*mock.Device) *mock.Interface {
	return &mock.Interface{
		InitFunc:           func() nvml.Return { return nvml.SUCCESS },
		ShutdownFunc:       func() nvml.Return { return nvml.SUCCESS },
		DeviceGetCountFunc: func() (int, nvml.Return) { return len(all), nvml.SUCCESS },
		DeviceGetHandleByIndexFunc: func(i int) (nvml.Device, nvml.Return) {
			if all[i] == nil {
				return nil, nvml.ERROR_GPU_IS_LOST
			}
			return all[i], nvml.SUCCESS
		},
	}
}

func TestRead(t *testing.T) {
	all, lost, err := Read(host(busy()))
	require.NoError(t, err)
	require.Equal(t, []error{nil}, lost)
	require.Equal(t, "93 % busy, memory 40 % busy, 61 of 80 GiB used, 640 of 700 W (at its limit), 71 °C, SM 1.75 of 1.98 GHz, 2 corrected memory errors", all[0].String())
	require.Empty(t, all[0].Concerns(), "a power limit that is reached is what it is for")
}

func TestReadWhatAGPUDoesNotSay(t *testing.T) {
	d := busy()
	d.GetPowerUsageFunc = func() (uint32, nvml.Return) { return 0, nvml.ERROR_NOT_SUPPORTED }
	d.GetTemperatureThresholdFunc = func(nvml.TemperatureThresholds) (uint32, nvml.Return) { return 0, nvml.ERROR_NOT_SUPPORTED }
	d.GetTotalEccErrorsFunc = func(nvml.MemoryErrorType, nvml.EccCounterType) (uint64, nvml.Return) {
		return 0, nvml.ERROR_NOT_SUPPORTED
	}
	d.GetMaxClockInfoFunc = func(nvml.ClockType) (uint32, nvml.Return) { return 0, nvml.ERROR_NO_PERMISSION }
	d.GetCurrentClocksThrottleReasonsFunc = func() (uint64, nvml.Return) { return 0, nvml.ERROR_NOT_SUPPORTED }
	all, lost, err := Read(host(d))
	require.NoError(t, err)
	require.Equal(t, []error{nil}, lost)
	require.True(t, math.IsNaN(all[0].Power), "0 W would be a figure")
	require.Equal(t, "93 % busy, memory 40 % busy, 61 of 80 GiB used, 71 °C, SM 1.75 GHz", all[0].String())
	require.Empty(t, all[0].Concerns())
}

func TestThrottle(t *testing.T) {
	hot := busy()
	hot.GetCurrentClocksThrottleReasonsFunc = func() (uint64, nvml.Return) {
		return nvml.ClocksThrottleReasonHwSlowdown | nvml.ClocksThrottleReasonHwThermalSlowdown | nvml.ClocksThrottleReasonGpuIdle, nvml.SUCCESS
	}
	all, _, err := Read(host(hot))
	require.NoError(t, err)
	require.True(t, all[0].ThrottleKnown)
	require.Equal(t, kernels.HardwareSlowdown|kernels.HardwareHeat, all[0].Throttle, "an idle GPU is not slowed down")
	hot.GetCurrentClocksThrottleReasonsFunc = func() (uint64, nvml.Return) { return 0, nvml.ERROR_NOT_SUPPORTED }
	all, _, err = Read(host(hot))
	require.NoError(t, err)
	require.False(t, all[0].ThrottleKnown)
}

func TestReadALostGPU(t *testing.T) {
	ill := busy()
	ill.GetUtilizationRatesFunc = func() (nvml.Utilization, nvml.Return) { return nvml.Utilization{}, nvml.ERROR_GPU_IS_LOST }
	all, lost, err := Read(host(nil, busy(), ill))
	require.NoError(t, err, "the others answer")
	require.ErrorContains(t, lost[0], "NVML: GPU 0: ")
	require.NoError(t, lost[1])
	require.InDelta(t, 0.93, all[1].Utilization, 1e-9)
	require.ErrorContains(t, lost[2], "NVML: GPU 2: ")
}

func TestReadWithoutADriver(t *testing.T) {
	lib := host()
	lib.InitFunc = func() nvml.Return { return nvml.ERROR_LIBRARY_NOT_FOUND }
	_, _, err := Read(lib)
	require.ErrorIs(t, err, kernels.ErrNoGPU)
}
