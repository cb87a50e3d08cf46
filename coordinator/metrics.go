package coordinator

import (
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/farandole-ml/farandole/elastic"
)

// metrics are the coordinator's Prometheus metrics, in base units.
type metrics struct {
	registry   *prometheus.Registry
	world      *prometheus.GaugeVec
	generation *prometheus.GaugeVec
	step       *prometheus.GaugeVec
	loss       *prometheus.GaugeVec
	resume     *prometheus.HistogramVec
	recoveries *prometheus.CounterVec
	devices    *deviceMetrics
}

func newMetrics() *metrics {
	m := &metrics{registry: prometheus.NewRegistry(), devices: newDeviceMetrics()}
	gauge := func(name, help string) *prometheus.GaugeVec {
		g := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, []string{"job"})
		m.registry.MustRegister(g)
		return g
	}
	m.world = gauge("farandole_world_size", "Workers in the current view.")
	m.generation = gauge("farandole_generation", "Current generation.")
	m.step = gauge("farandole_step", "Last committed step.")
	m.loss = gauge("farandole_loss", "Loss of the last committed step.")
	m.resume = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "farandole_resume_seconds", Help: "From a worker's loss to the next committed step.",
		Buckets: prometheus.ExponentialBuckets(0.01, 2, 14),
	}, []string{"job"})
	m.recoveries = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "farandole_recoveries_total", Help: "Workers lost, by kind of reason.",
	}, []string{"job", "reason"})
	m.registry.MustRegister(m.resume, m.recoveries, m.devices)
	return m
}

func (m *metrics) view(job string, v *elastic.View) {
	m.world.WithLabelValues(job).Set(float64(v.World()))
	m.generation.WithLabelValues(job).Set(float64(v.Generation))
}

// recovery counts a loss. The reason's first word is its kind: free text would make a label without bound.
func (m *metrics) recovery(job, reason string) {
	kind, _, _ := strings.Cut(reason, " ")
	m.recoveries.WithLabelValues(job, strings.Trim(kind, ":,")).Inc()
}
