package worker

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	pb "github.com/farandole-ml/farandole/coordinator/coordinatorpb"
	"github.com/farandole-ml/farandole/elastic"
	"github.com/farandole-ml/farandole/kernels"
)

// gauged is a device that says what state is, or that it is lost when there is none.
type gauged struct {
	kernels.Device
	state atomic.Pointer[kernels.Reading]
	reads atomic.Int64
	hang  atomic.Pointer[chan struct{}] // a reading ends when it is closed; nil: at once
}

var errLost = errors.New("GPU is lost")

func (g *gauged) Name() string { return "gauged" }
func (g *gauged) Reading() (kernels.Reading, error) {
	g.reads.Add(1)
	if hang := g.hang.Load(); hang != nil {
		<-*hang
	}
	if r := g.state.Load(); r != nil {
		return *r, nil
	}
	return kernels.Reading{}, errLost
}

func celsius(t float64) *kernels.Reading {
	no := math.NaN()
	return &kernels.Reading{ID: "GPU-1", Utilization: 0.5, MemoryUtilization: no, MemoryUsed: no, MemoryTotal: no, Power: no, PowerLimit: no,
		Temperature: t, SlowdownTemperature: 90, SMClock: no, MaxSMClock: no, Corrected: no, Uncorrected: 0, Throttle: kernels.PowerCap, ThrottleKnown: true}
}

// monitored runs a monitor of g in virtual time; the log is to be read while nothing runs.
func monitored(t *testing.T, g *gauged) (mail *mailbox, log *bytes.Buffer) {
	mail, log = newMailbox(), new(bytes.Buffer)
	s := &Session{log: slog.New(slog.NewTextHandler(log, nil)), mail: mail}
	s.Monitor(g)
	done := make(chan struct{})
	go func() { defer close(done); s.monitor.run(t.Context()) }()
	t.Cleanup(func() { <-done })
	return mail, log
}

func told(m *mailbox) *pb.DeviceReading { return m.heartbeat().GetHeartbeat().Device }

func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func TestHeartbeatsTellTheReading(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &gauged{}
		g.state.Store(celsius(40))
		mail, log := monitored(t, g)
		synctest.Wait()
		half, forty, ninety, none, capped := 0.5, 40.0, 90.0, 0.0, uint32(1)
		want := &pb.DeviceReading{Id: "GPU-1", Utilization: &half, Temperature: &forty, SlowdownTemperature: &ninety, Uncorrected: &none, Throttle: &capped}
		require.True(t, proto.Equal(want, told(mail)), "what the device does not say is not there: %v", told(mail))

		unknown := celsius(41)
		unknown.ThrottleKnown = false
		g.state.Store(unknown)
		pass(readEvery)
		require.Equal(t, 41.0, told(mail).GetTemperature())
		require.Nil(t, told(mail).Throttle)
		require.Equal(t, int64(2), g.reads.Load())
		require.Empty(t, log.String())
	})
}

func TestTroubleIsToldOncePerChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &gauged{}
		g.state.Store(celsius(86))
		_, log := monitored(t, g)
		warnings := func() int { return strings.Count(log.String(), "level=WARN") }
		synctest.Wait()
		require.Contains(t, log.String(), `concerns="86 °C, and it slows down at 90"`)
		g.state.Store(celsius(87))
		pass(2 * troubleEvery)
		require.Equal(t, 1, warnings(), "it is hot all the time\n%s", log)

		slow := celsius(88)
		slow.Throttle |= kernels.HardwareSlowdown | kernels.HardwareHeat
		g.state.Store(slow)
		pass(readEvery)
		require.Equal(t, 2, warnings(), "%s", log)
		require.Contains(t, log.String(), `concerns="slowed down: hardware slowdown, heat (hardware); 88 °C, and it slows down at 90"`)

		for range 20 { // it comes and goes
			g.state.Store(celsius(60))
			pass(readEvery)
			g.state.Store(slow)
			pass(readEvery)
		}
		require.Equal(t, 2, warnings(), "%s", log)
		g.state.Store(celsius(60))
		pass(troubleEvery)
		require.Equal(t, 1, strings.Count(log.String(), "well again"), "%s", log)

		ill := celsius(60)
		ill.Uncorrected = 1
		g.state.Store(ill)
		pass(troubleEvery)
		require.Equal(t, 3, warnings(), "%s", log)
		worse := celsius(60)
		worse.Uncorrected = 2
		g.state.Store(worse)
		pass(troubleEvery)
		require.Equal(t, 4, warnings(), "one more error is a change\n%s", log)
	})
}

func TestReadingsThatEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &gauged{}
		g.state.Store(celsius(40))
		mail, log := monitored(t, g)
		synctest.Wait()
		require.NotNil(t, told(mail))
		g.state.Store(nil)
		pass(readEvery)
		require.Nil(t, told(mail), "what is not known any more is not told")
		reads := g.reads.Load()
		pass(10 * readAgain)
		require.Nil(t, told(mail))
		require.Equal(t, reads+10, g.reads.Load(), "a lost device is asked seldom")
		require.Equal(t, 1, strings.Count(log.String(), "level=WARN"), "%s", log)
		require.Contains(t, log.String(), `device=gauged err="GPU is lost"`)

		g.state.Store(celsius(41))
		pass(readAgain)
		require.Equal(t, 41.0, told(mail).GetTemperature())
		require.Contains(t, log.String(), "are back")
	})
}

// A driver that hangs leaves no reading behind that looks like news.
func TestReadingsThatHang(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &gauged{}
		g.state.Store(celsius(40))
		mail, _ := monitored(t, g)
		synctest.Wait()
		hang := make(chan struct{})
		g.hang.Store(&hang)
		pass(readingLife - readEvery)
		require.NotNil(t, told(mail))
		pass(readEvery)
		require.Nil(t, told(mail))
		close(hang)
		synctest.Wait()
		require.NotNil(t, told(mail))
	})
}

// The coordinator hears of the device while there are readings; when it is lost to them training ends with the same weights.
func TestSessionTellsOfItsDevice(t *testing.T) {
	want := alone(t, newLinear(12, 4))
	c := newCoordinator(t, elastic.Policy{Min: 2, Start: 2})
	g := &gauged{}
	g.state.Store(celsius(40))
	device := func(id elastic.MemberID) bool { return c.devices[id] != nil }
	watched := newLinear(12, 4)
	reads := 0
	watched.before = func(_ context.Context, s elastic.Shard) error {
		switch s.Step {
		case 3:
			c.until("a reading", func() bool { return device("w0") })
		case 6:
			g.state.Store(nil)
			c.until("no reading", func() bool { return !device("w0") })
			reads++
		}
		return nil
	}
	p := launch(c, 0, watched, func(_ *Config, p *proc) {
		if p.s != nil {
			p.s.Monitor(g)
			p.s.monitor.every = time.Millisecond
		}
	})
	q := launch(c, 1, newLinear(12, 4), nil)
	requireSame(c, want, p, q)
	require.NotZero(t, reads)
	c.seen(func() { require.False(t, device("w1"), "a worker without such a device says nothing") })
}

func TestAloneWatchesItsDevice(t *testing.T) {
	g := &gauged{}
	l := newLinear(3, 2)
	looked := make(chan struct{})
	l.before = func(context.Context, elastic.Shard) error { <-looked; return nil }
	var log bytes.Buffer
	s, err := Join(t.Context(), Config{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	require.NoError(t, err)
	s.stdout, s.stderr = io.Discard, io.Discard
	s.Monitor(notifying{g, sync.OnceFunc(func() { close(looked) })})
	require.NoError(t, s.run(t.Context(), l))
	require.Contains(t, log.String(), "no readings of the device; training goes on without them")
	require.Panics(t, func() { s.Monitor(g) }, "too late")
}

// notifying calls read after every reading.
type notifying struct {
	*gauged
	read func()
}

func (n notifying) Reading() (kernels.Reading, error) {
	defer n.read()
	return n.gauged.Reading()
}
