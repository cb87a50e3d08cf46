package kernels

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"
)

// busy is a device in the middle of a training run.
func busy() Reading {
	return Reading{
		Utilization: 0.93, MemoryUtilization: 0.4, MemoryUsed: 61 << 30, MemoryTotal: 80 << 30, Power: 640.123, PowerLimit: 700,
		Temperature: 71, SlowdownTemperature: 89, SMClock: 1.75e9, MaxSMClock: 1.98e9, Corrected: 2, Throttle: PowerCap, ThrottleKnown: true,
	}
}

func TestReadingInWords(t *testing.T) {
	r := busy()
	require.Equal(t, "93 % busy, memory 40 % busy, 61 of 80 GiB used, 640 of 700 W (at its limit), 71 °C, SM 1.75 of 1.98 GHz, 2 corrected memory errors", r.String())
	r.Power, r.MaxSMClock, r.Corrected = math.NaN(), math.NaN(), math.NaN()
	require.Equal(t, "93 % busy, memory 40 % busy, 61 of 80 GiB used, 71 °C, SM 1.75 GHz", r.String(), "what is not known is left out")
	r.Corrected = 0
	require.Equal(t, "93 % busy, memory 40 % busy, 61 of 80 GiB used, 71 °C, SM 1.75 GHz", r.String())
}

func TestConcerns(t *testing.T) {
	r := busy()
	require.Empty(t, r.Concerns(), "a power limit that is reached is what it is for")
	require.Zero(t, r.Trouble())
	r.Uncorrected, r.SlowdownTemperature = math.NaN(), math.NaN()
	require.Zero(t, r.Trouble(), "what is not known is no trouble")

	r = busy()
	r.Temperature, r.Uncorrected, r.Throttle = 84, 3, PowerCap|HardwareSlowdown|HardwareHeat
	require.Equal(t, []string{"slowed down: hardware slowdown, heat (hardware)", "3 uncorrectable memory errors since the driver was loaded",
		"84 °C, and it slows down at 89"}, r.Concerns())
	require.Equal(t, Trouble{Slowed: HardwareSlowdown | HardwareHeat, Uncorrected: 3, Hot: true}, r.Trouble())
	warmer := r
	warmer.Temperature, warmer.Power, warmer.Throttle = 85, 630, r.Throttle&^PowerCap
	require.Equal(t, r.Trouble(), warmer.Trouble(), "figures change, the trouble does not")
	r.Temperature = 83
	require.False(t, r.Trouble().Hot)
}
