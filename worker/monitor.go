package worker

import (
	"context"
	"log/slog"
	"math"
	"strings"
	"time"

	pb "github.com/farandole-ml/farandole/coordinator/coordinatorpb"
	"github.com/farandole-ml/farandole/kernels"
)

// How a device's state is read.
const (
	readEvery    = 2 * time.Second
	readAgain    = time.Minute   // after a reading that failed
	readingLife  = 3 * readEvery // an older one is not told any more: the driver hangs
	troubleEvery = time.Minute   // the least time between two lines in the log on what is not well
)

// monitor reads a device's state now and then, tells heartbeats of it, and the log when it is not well. One goroutine owns it.
type monitor struct {
	device       kernels.Monitored
	name         string
	log          *slog.Logger
	mail         *mailbox
	every, again time.Duration

	trouble kernels.Trouble // that the log has
	said    time.Time       // when; zero before the first
	mute    bool            // the log has that there are no readings
}

// Monitor has s read how d is while it trains: heartbeats tell the coordinator, and the log gets a line when d is not well. Called in Setup. d is
// read until Close, which waits for a reading under way, beside what the training goroutine does with it; readings that fail do not touch training.
func (s *Session) Monitor(d kernels.Monitored) {
	if s.running {
		panic("worker: Monitor after the first Next")
	}
	s.monitor = &monitor{device: d, name: d.Name(), log: s.log, mail: s.mail, every: readEvery, again: readAgain}
}

// run reads until ctx ends.
func (m *monitor) run(ctx context.Context) {
	next := time.NewTimer(0)
	defer next.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-next.C:
			next.Reset(m.look())
		}
	}
}

// look reads once, and says when to do it again.
func (m *monitor) look() time.Duration {
	r, err := m.device.Reading()
	now := time.Now()
	if err != nil {
		m.mail.reading(nil, now)
		if !m.mute {
			m.log.Warn("no readings of the device; training goes on without them", "device", m.name, "err", err)
		}
		m.mute = true
		return m.again
	}
	if m.mute {
		m.log.Info("readings of the device are back", "device", m.name)
	}
	m.mute = false
	m.mail.reading(readingToPB(r), now)
	m.judge(r, now)
	return m.every
}

// judge tells the log of a change for worse or better. What comes and goes is told as it is when the next line is due.
func (m *monitor) judge(r kernels.Reading, now time.Time) {
	t := r.Trouble()
	if t == m.trouble || !m.said.IsZero() && now.Sub(m.said) < troubleEvery {
		return
	}
	m.trouble, m.said = t, now
	if t == (kernels.Trouble{}) {
		m.log.Info("the device is well again", "device", m.name)
		return
	}
	m.log.Warn("the device is not well: it may be slow or compute wrongly", "device", m.name, "id", r.ID, "concerns", strings.Join(r.Concerns(), "; "))
}

func readingToPB(r kernels.Reading) *pb.DeviceReading {
	known := func(x float64) *float64 {
		if math.IsNaN(x) {
			return nil
		}
		return &x
	}
	m := &pb.DeviceReading{
		Id: r.ID, Utilization: known(r.Utilization), MemoryUtilization: known(r.MemoryUtilization),
		MemoryUsed: known(r.MemoryUsed), MemoryTotal: known(r.MemoryTotal), Power: known(r.Power), PowerLimit: known(r.PowerLimit),
		Temperature: known(r.Temperature), SlowdownTemperature: known(r.SlowdownTemperature),
		SmClock: known(r.SMClock), MaxSmClock: known(r.MaxSMClock), Corrected: known(r.Corrected), Uncorrected: known(r.Uncorrected),
	}
	if r.ThrottleKnown {
		why := uint32(r.Throttle)
		m.Throttle = &why
	}
	return m
}
