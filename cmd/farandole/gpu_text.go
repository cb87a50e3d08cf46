package main

import (
	"fmt"
	"math"
	"strings"

	pb "github.com/farandole-ml/farandole/coordinator/coordinatorpb"
	"github.com/farandole-ml/farandole/kernels"
)

// readingOf is what a worker's GPU says.
func readingOf(m *pb.DeviceReading) kernels.Reading {
	figure := func(x *float64) float64 {
		if x == nil {
			return math.NaN()
		}
		return *x
	}
	return kernels.Reading{
		ID: m.Id, Utilization: figure(m.Utilization), MemoryUtilization: figure(m.MemoryUtilization),
		MemoryUsed: figure(m.MemoryUsed), MemoryTotal: figure(m.MemoryTotal), Power: figure(m.Power), PowerLimit: figure(m.PowerLimit),
		Temperature: figure(m.Temperature), SlowdownTemperature: figure(m.SlowdownTemperature),
		SMClock: figure(m.SmClock), MaxSMClock: figure(m.MaxSmClock), Corrected: figure(m.Corrected), Uncorrected: figure(m.Uncorrected),
		Throttle: kernels.Throttle(m.GetThrottle()), ThrottleKnown: m.Throttle != nil,
	}
}

// gpuText is a reading in short, and what is not well: "GPU 93 % 61/80 GiB 640 W 71 °C; slowed down: power brake". What is not known is left out.
func gpuText(r kernels.Reading) string {
	const gib = 1.0 / (1 << 30)
	text := "GPU"
	if !math.IsNaN(r.Utilization) {
		text += fmt.Sprintf(" %.0f %%", r.Utilization*100)
	}
	switch {
	case math.IsNaN(r.MemoryUsed):
	case math.IsNaN(r.MemoryTotal):
		text += fmt.Sprintf(" %.3g GiB", r.MemoryUsed*gib)
	default:
		text += fmt.Sprintf(" %.3g/%.3g GiB", r.MemoryUsed*gib, r.MemoryTotal*gib)
	}
	if !math.IsNaN(r.Power) {
		text += fmt.Sprintf(" %.0f W", r.Power)
	}
	if !math.IsNaN(r.Temperature) {
		text += fmt.Sprintf(" %.0f °C", r.Temperature)
	}
	return strings.Join(append([]string{text}, r.Concerns()...), "; ")
}

// gpusText is the GPUs of all workers in short: the least busy and the hottest. It is empty when nothing is known of any.
func gpusText(s *pb.DeviceSummary) string {
	name, least, most := "GPU", "", ""
	if s.GetWorkers() > 1 {
		name, least, most = "GPUs", "≥", "≤"
	}
	text := ""
	if u := s.GetLowestUtilization(); s != nil && s.LowestUtilization != nil {
		text += fmt.Sprintf(" %s%.0f %%", least, u*100)
	}
	if t := s.GetHottestCelsius(); s != nil && s.HottestCelsius != nil {
		text += fmt.Sprintf(" %s%.0f °C", most, t)
	}
	if text == "" {
		return ""
	}
	return name + text
}

// workerView is a worker in `-o json`.
type workerView struct {
	Rank   int      `json:"rank"`
	Member string   `json:"member"`
	Host   string   `json:"host"`
	PID    int32    `json:"pid"`
	GPU    *gpuView `json:"gpu"` // null without a reading
}

// gpuView is a reading in `-o json`, named as the metrics are; null is unknown.
type gpuView struct {
	UUID                string   `json:"uuid"`
	Utilization         *float64 `json:"utilization_ratio"`
	MemoryUtilization   *float64 `json:"memory_utilization_ratio"`
	MemoryUsed          *float64 `json:"memory_used_bytes"`
	MemoryTotal         *float64 `json:"memory_total_bytes"`
	Power               *float64 `json:"power_draw_watts"`
	PowerLimit          *float64 `json:"power_limit_watts"`
	Temperature         *float64 `json:"temperature_celsius"`
	SlowdownTemperature *float64 `json:"slowdown_temperature_celsius"`
	SMClock             *float64 `json:"sm_clock_hertz"`
	MaxSMClock          *float64 `json:"sm_clock_max_hertz"`
	Corrected           *float64 `json:"ecc_errors_corrected"`
	Uncorrected         *float64 `json:"ecc_errors_uncorrected"`
	Concerns            []string `json:"concerns"`
}

// gpusView is a DeviceSummary in `-o json`.
type gpusView struct {
	Workers           int32    `json:"workers"`
	LowestUtilization *float64 `json:"lowest_utilization_ratio"`
	HottestCelsius    *float64 `json:"hottest_celsius"`
}

func workerViews(workers []*pb.Worker) (all []workerView) {
	for rank, w := range workers {
		v := workerView{Rank: rank, Member: w.Member, Host: w.Host, PID: w.Pid}
		if d := w.Device; d != nil {
			v.GPU = &gpuView{
				UUID: d.Id, Utilization: d.Utilization, MemoryUtilization: d.MemoryUtilization, MemoryUsed: d.MemoryUsed, MemoryTotal: d.MemoryTotal,
				Power: d.Power, PowerLimit: d.PowerLimit, Temperature: d.Temperature, SlowdownTemperature: d.SlowdownTemperature,
				SMClock: d.SmClock, MaxSMClock: d.MaxSmClock, Corrected: d.Corrected, Uncorrected: d.Uncorrected,
				Concerns: append([]string{}, readingOf(d).Concerns()...),
			}
		}
		all = append(all, v)
	}
	return all
}
