//go:build cuda

package gpus

import (
	"fmt"
	"math"
	"strings"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"github.com/farandole-ml/farandole/kernels"
)

// Reading is the state of one GPU now. A figure that the GPU does not give is NaN.
type Reading struct {
	Utilization                      float64 // share of the last moment in which a kernel ran
	MemoryUtilization                float64 // share of it in which memory was read or written
	MemoryUsed, MemoryTotal          float64 // bytes, of all processes
	Power, PowerLimit                float64 // watts
	Temperature, SlowdownTemperature float64 // °C
	SMClock, MaxSMClock              float64 // hertz
	Corrected, Uncorrected           float64 // errors of its memory since the driver was loaded

	PowerCapped bool     // clocks are held down to stay below the power limit: ordinary under load
	Slowed      []string // other reasons why the hardware or the driver holds clocks down, which is not ordinary
}

// slowdowns are the reasons that a healthy GPU does not have.
var slowdowns = []struct {
	bit  uint64
	name string
}{
	{nvml.ClocksThrottleReasonHwSlowdown, "hardware slowdown"},
	{nvml.ClocksThrottleReasonHwThermalSlowdown, "heat (hardware)"},
	{nvml.ClocksThrottleReasonSwThermalSlowdown, "heat (driver)"},
	{nvml.ClocksThrottleReasonHwPowerBrakeSlowdown, "power brake"},
}

// Read asks all GPUs of the host, in NVML's order. Without a driver or a GPU the error is a kernels.ErrNoGPU; one that does not answer
// any more, because it is lost, has its error in place of a reading.
func Read(lib nvml.Interface) (all []Reading, lost []error, err error) {
	if code := lib.Init(); code != nvml.SUCCESS {
		return nil, nil, fmt.Errorf("%w: NVML: %s", kernels.ErrNoGPU, reason(code))
	}
	defer func() { _ = lib.Shutdown() }()
	n, code := lib.DeviceGetCount()
	if code != nvml.SUCCESS {
		return nil, nil, fmt.Errorf("NVML: number of GPUs: %s", reason(code))
	}
	all, lost = make([]Reading, n), make([]error, n)
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

func read(d nvml.Device) (r Reading, bad nvml.Return) {
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
	if reasons, code := d.GetCurrentClocksThrottleReasons(); code == nvml.SUCCESS {
		r.PowerCapped = reasons&nvml.ClocksThrottleReasonSwPowerCap != 0
		for _, s := range slowdowns {
			if reasons&s.bit != 0 {
				r.Slowed = append(r.Slowed, s.name)
			}
		}
	}
	return r, bad
}

// nearSlowdown is how far below the temperature at which it slows down a GPU should stay, in °C.
const nearSlowdown = 5

// Concerns are what is not well, one clause each: clocks held down by more than the power limit, errors of the memory that could not
// be corrected, and heat.
func (r Reading) Concerns() (all []string) {
	if len(r.Slowed) > 0 {
		all = append(all, "slowed down: "+strings.Join(r.Slowed, ", "))
	}
	if r.Uncorrected > 0 {
		all = append(all, fmt.Sprintf("%.0f uncorrectable memory errors since the driver was loaded", r.Uncorrected))
	}
	if r.Temperature >= r.SlowdownTemperature-nearSlowdown {
		all = append(all, fmt.Sprintf("%.0f °C, and it slows down at %.0f", r.Temperature, r.SlowdownTemperature))
	}
	return all
}

// String is for people: "93 % busy, memory 40 % busy, 61 of 80 GiB used, 640 of 700 W (at its limit), 71 °C, SM 1.75 of 1.98 GHz". What is not known is left out.
func (r Reading) String() string {
	var parts []string
	add := func(format string, x, unit float64, more ...any) {
		if !math.IsNaN(x) {
			parts = append(parts, fmt.Sprintf(format, append([]any{x * unit}, more...)...))
		}
	}
	of := func(limit, unit float64, format string) string {
		if math.IsNaN(limit) {
			return ""
		}
		return fmt.Sprintf(" of "+format, limit*unit)
	}
	capped := ""
	if r.PowerCapped {
		capped = " (at its limit)"
	}
	const gib, giga = 1.0 / (1 << 30), 1e-9
	add("%.0f %% busy", r.Utilization, 100)
	add("memory %.0f %% busy", r.MemoryUtilization, 100)
	add("%.3g%s GiB used", r.MemoryUsed, gib, of(r.MemoryTotal, gib, "%.3g"))
	add("%.0f%s W%s", r.Power, 1, of(r.PowerLimit, 1, "%.0f"), capped)
	add("%.0f °C", r.Temperature, 1)
	add("SM %.2f%s GHz", r.SMClock, giga, of(r.MaxSMClock, giga, "%.2f"))
	add("%.0f corrected memory errors", zeroIsNothing(r.Corrected), 1)
	return strings.Join(parts, ", ")
}

func zeroIsNothing(x float64) float64 {
	if x == 0 {
		return math.NaN()
	}
	return x
}
