//go:build cuda

package gpus

import (
	"fmt"
	"math"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"github.com/farandole-ml/farandole/kernels"
)

// reasons are NVML's bits for a kernels.Throttle.
var reasons = []struct {
	nvml uint64
	ours kernels.Throttle
}{
	{nvml.ClocksThrottleReasonSwPowerCap, kernels.PowerCap},
	{nvml.ClocksThrottleReasonHwSlowdown, kernels.HardwareSlowdown},
	{nvml.ClocksThrottleReasonHwThermalSlowdown, kernels.HardwareHeat},
	{nvml.ClocksThrottleReasonSwThermalSlowdown, kernels.DriverHeat},
	{nvml.ClocksThrottleReasonHwPowerBrakeSlowdown, kernels.PowerBrake},
}

// Read asks all GPUs of the host, in NVML's order. Without a driver or a GPU the error is a kernels.ErrNoGPU; one that does not answer
// any more, because it is lost, has its error in place of a reading.
func Read(lib nvml.Interface) (all []kernels.Reading, lost []error, err error) {
	if code := lib.Init(); code != nvml.SUCCESS {
		return nil, nil, fmt.Errorf("%w: NVML: %s", kernels.ErrNoGPU, reason(code))
	}
	defer func() { _ = lib.Shutdown() }()
	n, code := lib.DeviceGetCount()
	if code != nvml.SUCCESS {
		return nil, nil, fmt.Errorf("NVML: number of GPUs: %s", reason(code))
	}
	all, lost = make([]kernels.Reading, n), make([]error, n)
	for i := range n {
		d, code := lib.DeviceGetHandleByIndex(i)
		if code == nvml.SUCCESS {
			all[i], code = read(d)
		}
		if code != nvml.SUCCESS {
			lost[i] = fmt.Errorf("NVML: GPU %d: %s", i, reason(code))
		}
	}
	return all, lost, nil
}

func read(d nvml.Device) (r kernels.Reading, bad nvml.Return) {
	// see gives x in another unit, or NaN where the GPU does not have it.
	see := func(x uint64, code nvml.Return, unit float64) float64 {
		switch code {
		case nvml.SUCCESS:
			return float64(x) * unit
		case nvml.ERROR_GPU_IS_LOST, nvml.ERROR_UNKNOWN, nvml.ERROR_UNINITIALIZED:
			bad = code
		}
		return math.NaN()
	}
	small := func(x uint32, code nvml.Return, unit float64) float64 { return see(uint64(x), code, unit) }

	memory, code := d.GetMemoryInfo()
	r.MemoryUsed, r.MemoryTotal = see(memory.Used, code, 1), see(memory.Total, code, 1)
	rates, code := d.GetUtilizationRates()
	r.Utilization, r.MemoryUtilization = small(rates.Gpu, code, 0.01), small(rates.Memory, code, 0.01)
	x, code := d.GetPowerUsage()
	r.Power = small(x, code, 1e-3)
	x, code = d.GetEnforcedPowerLimit()
	r.PowerLimit = small(x, code, 1e-3)
	x, code = d.GetTemperature(nvml.TEMPERATURE_GPU)
	r.Temperature = small(x, code, 1)
	x, code = d.GetTemperatureThreshold(nvml.TEMPERATURE_THRESHOLD_SLOWDOWN)
	r.SlowdownTemperature = small(x, code, 1)
	x, code = d.GetClockInfo(nvml.CLOCK_SM)
	r.SMClock = small(x, code, 1e6)
	x, code = d.GetMaxClockInfo(nvml.CLOCK_SM)
	r.MaxSMClock = small(x, code, 1e6)
	errors, code := d.GetTotalEccErrors(nvml.MEMORY_ERROR_TYPE_CORRECTED, nvml.VOLATILE_ECC)
	r.Corrected = see(errors, code, 1)
	errors, code = d.GetTotalEccErrors(nvml.MEMORY_ERROR_TYPE_UNCORRECTED, nvml.VOLATILE_ECC)
	r.Uncorrected = see(errors, code, 1)
	if held, code := d.GetCurrentClocksThrottleReasons(); code == nvml.SUCCESS {
		r.ThrottleKnown = true
		for _, why := range reasons {
			if held&why.nvml != 0 {
				r.Throttle |= why.ours
			}
		}
	}
	return r, bad
}
