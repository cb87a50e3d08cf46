package coordinator

import (
	"iter"
	"math"
	"strings"

	pb "github.com/farandole-ml/farandole/coordinator/coordinatorpb"
	"github.com/farandole-ml/farandole/elastic"
)

// Limits of what a worker may say of its device. Beyond them is no figure.
const (
	maxFigure   = 1e18
	maxDeviceID = 64 // bytes
)

// checkedReading is r without what no device says. It is nil for nil.
func checkedReading(r *pb.DeviceReading) *pb.DeviceReading {
	if r == nil {
		return nil
	}
	upTo := func(limit float64, x *float64) *float64 {
		if x == nil || math.IsNaN(*x) || *x < 0 || *x > limit {
			return nil
		}
		return x
	}
	figure := func(x *float64) *float64 { return upTo(maxFigure, x) }
	out := &pb.DeviceReading{
		Utilization: upTo(1, r.Utilization), MemoryUtilization: upTo(1, r.MemoryUtilization),
		MemoryUsed: figure(r.MemoryUsed), MemoryTotal: figure(r.MemoryTotal), Power: figure(r.Power), PowerLimit: figure(r.PowerLimit),
		Temperature: figure(r.Temperature), SlowdownTemperature: figure(r.SlowdownTemperature),
		SmClock: figure(r.SmClock), MaxSmClock: figure(r.MaxSmClock), Corrected: figure(r.Corrected), Uncorrected: figure(r.Uncorrected),
	}
	if r.Throttle != nil {
		known := *r.Throttle & (1<<len(throttles) - 1)
		out.Throttle = &known
	}
	if len(r.Id) <= maxDeviceID && strings.Trim(r.Id, idLetters) == "" {
		out.Id = r.Id
	}
	return out
}

// idLetters are what a device's name is made of.
const idLetters = "-0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

// deviceHeard takes what a heartbeat says of a member's device, nothing included.
func (j *job) deviceHeard(m *member, r *pb.DeviceReading) {
	m.device = checkedReading(r)
	j.srv.metrics.devices.set(deviceKey{j.id, m.id}, m.host, m.device)
}

// hangUp forgets a member's stream, which is closed or ends by itself, and what came by it of the member's device.
func (j *job) hangUp(m *member) {
	m.out = nil
	j.deviceHeard(m, nil)
}

// inView gives the members of the view, in rank order, and what is known of each: nil when it is gone.
func (j *job) inView() iter.Seq2[elastic.Member, *member] {
	return func(yield func(elastic.Member, *member) bool) {
		v := j.state.View()
		if v == nil || j.over {
			return
		}
		for _, r := range v.Roster {
			if !yield(r, j.members[r.ID]) {
				return
			}
		}
	}
}

// deviceSummary is nil when no worker of the view has a reading.
func (j *job) deviceSummary() *pb.DeviceSummary {
	var s pb.DeviceSummary
	for _, m := range j.inView() {
		if m == nil || m.device == nil {
			continue
		}
		s.Workers++
		if u := m.device.Utilization; u != nil && (s.LowestUtilization == nil || *u < *s.LowestUtilization) {
			s.LowestUtilization = u
		}
		if t := m.device.Temperature; t != nil && (s.HottestCelsius == nil || *t > *s.HottestCelsius) {
			s.HottestCelsius = t
		}
	}
	if s.Workers == 0 {
		return nil
	}
	return &s
}

// workers are those of the view, for one who asks.
func (j *job) workers() (all []*pb.Worker) {
	for r, m := range j.inView() {
		w := &pb.Worker{Member: string(r.ID), Host: r.Host}
		if m != nil {
			w.Pid, w.Device = m.pid, m.device
		}
		all = append(all, w)
	}
	return all
}
