package coordinator

import (
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	pb "github.com/farandole-ml/farandole/coordinator/coordinatorpb"
	"github.com/farandole-ml/farandole/elastic"
)

// deviceMetrics are the newest readings of all jobs' members, as they are when somebody asks. Its methods may be called from any goroutine.
type deviceMetrics struct {
	figures  []deviceFigure
	ecc      *prometheus.Desc
	throttle *prometheus.Desc

	mu  sync.Mutex
	all map[deviceKey]deviceState // guarded by mu
}

type deviceKey struct {
	job    string
	member elastic.MemberID
}

type deviceState struct {
	host    string
	reading *pb.DeviceReading // not changed
}

type deviceFigure struct {
	desc *prometheus.Desc
	of   func(*pb.DeviceReading) *float64
}

// throttles are the reasons of DeviceReading.throttle by bit, named as nvidia-smi names them.
var throttles = []string{"sw_power_cap", "hw_slowdown", "hw_thermal_slowdown", "sw_thermal_slowdown", "hw_power_brake_slowdown"}

func newDeviceMetrics() *deviceMetrics {
	desc := func(name, help string, more ...string) *prometheus.Desc {
		return prometheus.NewDesc("farandole_gpu_"+name, help, append([]string{"job", "member", "host", "uuid"}, more...), nil)
	}
	type r = *pb.DeviceReading
	return &deviceMetrics{
		figures: []deviceFigure{
			{desc("utilization_ratio", "Share of the last moment in which a kernel ran on the worker's GPU."), func(d r) *float64 { return d.Utilization }},
			{desc("memory_utilization_ratio", "Share of the last moment in which the GPU's memory was read or written."), func(d r) *float64 { return d.MemoryUtilization }},
			{desc("memory_used_bytes", "Memory of the GPU in use, by all processes."), func(d r) *float64 { return d.MemoryUsed }},
			{desc("memory_total_bytes", "Memory of the GPU."), func(d r) *float64 { return d.MemoryTotal }},
			{desc("power_draw_watts", "Power that the GPU draws."), func(d r) *float64 { return d.Power }},
			{desc("power_limit_watts", "Power limit that is enforced."), func(d r) *float64 { return d.PowerLimit }},
			{desc("temperature_celsius", "Temperature of the GPU."), func(d r) *float64 { return d.Temperature }},
			{desc("slowdown_temperature_celsius", "Temperature at which the GPU slows down."), func(d r) *float64 { return d.SlowdownTemperature }},
			{desc("sm_clock_hertz", "Clock of the GPU's multiprocessors."), func(d r) *float64 { return d.SmClock }},
			{desc("sm_clock_max_hertz", "Highest clock of the GPU's multiprocessors."), func(d r) *float64 { return d.MaxSmClock }},
		},
		ecc:      desc("ecc_errors_total", "Errors of the GPU's memory since the driver was loaded.", "type"),
		throttle: desc("throttled", "1 while the GPU's clocks are held down for the reason.", "reason"),
		all:      map[deviceKey]deviceState{},
	}
}

// set makes r the member's reading; nil leaves none.
func (d *deviceMetrics) set(k deviceKey, host string, r *pb.DeviceReading) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if r == nil {
		delete(d.all, k)
		return
	}
	d.all[k] = deviceState{host, r}
}

// Describe implements prometheus.Collector.
func (d *deviceMetrics) Describe(ch chan<- *prometheus.Desc) {
	for _, f := range d.figures {
		ch <- f.desc
	}
	ch <- d.ecc
	ch <- d.throttle
}

// Collect implements prometheus.Collector: a figure that a GPU does not give is not there.
func (d *deviceMetrics) Collect(ch chan<- prometheus.Metric) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for k, s := range d.all {
		labels := []string{k.job, string(k.member), s.host, s.reading.Id}
		give := func(desc *prometheus.Desc, kind prometheus.ValueType, x float64, more ...string) {
			// The one error there is, of text that is not UTF-8, cannot come from a message: it must not cost the other metrics.
			if m, err := prometheus.NewConstMetric(desc, kind, x, append(labels[:len(labels):len(labels)], more...)...); err == nil {
				ch <- m
			}
		}
		for _, f := range d.figures {
			if x := f.of(s.reading); x != nil {
				give(f.desc, prometheus.GaugeValue, *x)
			}
		}
		for kind, x := range map[string]*float64{"corrected": s.reading.Corrected, "uncorrected": s.reading.Uncorrected} {
			if x != nil {
				give(d.ecc, prometheus.CounterValue, *x, kind)
			}
		}
		if why := s.reading.Throttle; why != nil {
			for bit, reason := range throttles {
				give(d.throttle, prometheus.GaugeValue, float64(*why>>bit&1), reason)
			}
		}
	}
}
