package kernels

import (
	"fmt"
	"math"
	"strings"
)

// Monitored is a Device that says how it is. Reading, unlike all else of a Device, may be called by any goroutine, also while another one
// uses the device: it waits for no operation and changes none, and it works on a device that failed. After Close, and where nothing is
// known of the device, it is an error.
type Monitored interface {
	Device
	Reading() (Reading, error)
}

// Reading is the state of one device now. A figure that the device does not give is NaN.
type Reading struct {
	ID string // of the device, the same for all processes that use it: "GPU-…", as nvidia-smi has it; empty means unknown

	Utilization                      float64 // share of the last moment in which a kernel ran
	MemoryUtilization                float64 // share of it in which memory was read or written
	MemoryUsed, MemoryTotal          float64 // bytes, of all processes
	Power, PowerLimit                float64 // watts
	Temperature, SlowdownTemperature float64 // °C
	SMClock, MaxSMClock              float64 // hertz
	Corrected, Uncorrected           float64 // errors of its memory since the driver was loaded

	Throttle      Throttle
	ThrottleKnown bool
}

// Throttle is why a device's clocks are held down, as bits. They travel to the coordinator: their values are fixed.
type Throttle uint32

const (
	PowerCap         Throttle = 1 << iota // to stay below the power limit: ordinary under load
	HardwareSlowdown                      // by the hardware, for one of the reasons below or another one
	HardwareHeat
	DriverHeat
	PowerBrake // a signal from outside, of a power supply say
)

// slowdowns are the reasons that a healthy device does not have.
var slowdowns = []struct {
	bit  Throttle
	name string
}{
	{HardwareSlowdown, "hardware slowdown"},
	{HardwareHeat, "heat (hardware)"},
	{DriverHeat, "heat (driver)"},
	{PowerBrake, "power brake"},
}

// nearSlowdown is how far below the temperature at which it slows down a device should stay, in °C.
const nearSlowdown = 5

// Trouble is what is not well with a device, without figures that change all the time. Zero is a device that is well.
type Trouble struct {
	Slowed      Throttle // without PowerCap
	Uncorrected int64    // errors of its memory
	Hot         bool
}

// Trouble is what r shows of it.
func (r Reading) Trouble() (t Trouble) {
	t.Slowed = r.Throttle &^ PowerCap
	if r.Uncorrected > 0 {
		t.Uncorrected = int64(r.Uncorrected)
	}
	t.Hot = r.Temperature >= r.SlowdownTemperature-nearSlowdown
	return t
}

// Concerns are r's Trouble in words, one clause each: clocks held down by more than the power limit, errors of the memory that could not
// be corrected, and heat.
func (r Reading) Concerns() (all []string) {
	t := r.Trouble()
	if t.Slowed != 0 {
		var why []string
		for _, s := range slowdowns {
			if t.Slowed&s.bit != 0 {
				why = append(why, s.name)
			}
		}
		all = append(all, "slowed down: "+strings.Join(why, ", "))
	}
	if t.Uncorrected > 0 {
		all = append(all, fmt.Sprintf("%d uncorrectable memory errors since the driver was loaded", t.Uncorrected))
	}
	if t.Hot {
		all = append(all, fmt.Sprintf("%.0f °C, and it slows down at %.0f", r.Temperature, r.SlowdownTemperature))
	}
	return all
}

// String is for people: "93 % busy, memory 40 % busy, 61 of 80 GiB used, 640 of 700 W (at its limit), 71 °C, SM 1.75 of 1.98 GHz".
// What is not known is left out.
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
	if r.Throttle&PowerCap != 0 {
		capped = " (at its limit)"
	}
	const gib, giga = 1.0 / (1 << 30), 1e-9
	add("%.0f %% busy", r.Utilization, 100)
	add("memory %.0f %% busy", r.MemoryUtilization, 100)
	add("%.3g%s GiB used", r.MemoryUsed, gib, of(r.MemoryTotal, gib, "%.3g"))
	add("%.0f%s W%s", r.Power, 1, of(r.PowerLimit, 1, "%.0f"), capped)
	add("%.0f °C", r.Temperature, 1)
	add("SM %.2f%s GHz", r.SMClock, giga, of(r.MaxSMClock, giga, "%.2f"))
	if r.Corrected > 0 {
		add("%.0f corrected memory errors", r.Corrected, 1)
	}
	return strings.Join(parts, ", ")
}
