package coordinator

import (
	"io"
	"math"
	"net"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	pb "github.com/farandole-ml/farandole/coordinator/coordinatorpb"
)

func busyGPU() *pb.DeviceReading {
	return &pb.DeviceReading{
		Id: "GPU-1", Utilization: proto.Float64(0.93), MemoryUtilization: proto.Float64(0.4), MemoryUsed: proto.Float64(61), MemoryTotal: proto.Float64(80),
		Power: proto.Float64(640), PowerLimit: proto.Float64(700), Temperature: proto.Float64(71), SlowdownTemperature: proto.Float64(89),
		SmClock: proto.Float64(1.75e9), MaxSmClock: proto.Float64(1.98e9), Corrected: proto.Float64(2), Uncorrected: proto.Float64(0), Throttle: proto.Uint32(1),
	}
}

func (w *fakeWorker) beatWith(gen uint64, step int64, r *pb.DeviceReading) {
	w.send(&pb.WorkerMessage{Of: &pb.WorkerMessage_Heartbeat{Heartbeat: &pb.Heartbeat{
		Generation: gen, Applied: step, AppliedUnixNanos: time.Now().UnixNano(), FirstUnixNanos: time.Now().UnixNano(), Device: r}}})
}

// metered is a coordinator with metrics; scrape gives the lines about GPUs, without those of help.
func metered(t *testing.T) (l *life, scrape func() string) {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	addr := lis.Addr().String()
	require.NoError(t, lis.Close())
	l = startWith(t, Config{Listen: "127.0.0.1:0", StateDir: t.TempDir(), HTTP: addr})
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	return l, func() string {
		r, err := client.Get("http://" + addr + "/metrics")
		require.NoError(t, err)
		defer r.Body.Close()
		b, err := io.ReadAll(r.Body)
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, r.StatusCode, "%s", b)
		var lines []string
		for line := range strings.Lines(string(b)) {
			if strings.HasPrefix(line, "farandole_gpu_") {
				lines = append(lines, line)
			}
		}
		return strings.Join(lines, "")
	}
}

// jobStatus is what one who asks for this job's workers hears.
func (l *life) jobStatus(job string) *pb.JobStatus {
	l.t.Helper()
	r, err := l.cl.Jobs(l.t.Context(), &pb.JobsRequest{WorkersOf: job})
	require.NoError(l.t, err)
	for _, j := range r.Jobs {
		if j.Job == job {
			return j
		}
	}
	l.t.Fatalf("no job %s", job)
	return nil
}

const (
	soon = 10 * time.Second
	tick = 2 * time.Millisecond
)

func TestDeviceMetrics(t *testing.T) {
	l, scrape := metered(t)
	job := submit(t, l, &pb.JobSpec{Name: "j", Min: 1, Start: 2, LivenessNanos: int64(time.Minute)})
	a := l.attach(t.Context(), job, "a", &pb.Fence{HoldsState: true})
	b := l.attach(t.Context(), job, "b", &pb.Fence{HoldsState: true})
	v := joinAll(t, a, b)
	gen := v.Generation
	require.Empty(t, scrape(), "nobody has a GPU yet")
	require.Nil(t, l.jobStatus(job).Devices)

	a.beatWith(gen, 1, busyGPU())
	b.beatWith(gen, 1, &pb.DeviceReading{Id: "GPU-2", Utilization: proto.Float64(0.5), Temperature: proto.Float64(88)})
	require.Eventually(t, func() bool {
		return strings.Contains(scrape(), `member="a"`) && strings.Contains(scrape(), `member="b"`)
	}, soon, tick)
	labels := `{host="h",job="` + job + `",member="a",`
	id := `uuid="GPU-1"}`
	want := ""
	for _, line := range []string{
		`ecc_errors_total` + labels + `type="corrected",` + id + ` 2`,
		`ecc_errors_total` + labels + `type="uncorrected",` + id + ` 0`,
		`memory_total_bytes` + labels + id + ` 80`,
		`memory_used_bytes` + labels + id + ` 61`,
		`memory_utilization_ratio` + labels + id + ` 0.4`,
		`power_draw_watts` + labels + id + ` 640`,
		`power_limit_watts` + labels + id + ` 700`,
		`slowdown_temperature_celsius` + labels + id + ` 89`,
		`sm_clock_hertz` + labels + id + ` 1.75e+09`,
		`sm_clock_max_hertz` + labels + id + ` 1.98e+09`,
		`temperature_celsius` + labels + id + ` 71`,
		`throttled` + labels + `reason="hw_power_brake_slowdown",` + id + ` 0`,
		`throttled` + labels + `reason="hw_slowdown",` + id + ` 0`,
		`throttled` + labels + `reason="hw_thermal_slowdown",` + id + ` 0`,
		`throttled` + labels + `reason="sw_power_cap",` + id + ` 1`,
		`throttled` + labels + `reason="sw_thermal_slowdown",` + id + ` 0`,
		`utilization_ratio` + labels + id + ` 0.93`,
	} {
		want += "farandole_gpu_" + line + "\n"
	}
	var ofA, ofB string
	for line := range strings.Lines(scrape()) {
		if strings.Contains(line, `member="a"`) {
			ofA += line
		} else {
			ofB += line
		}
	}
	require.Equal(t, want, ofA)
	require.Equal(t, 2, strings.Count(ofB, "\n"), "what a GPU does not say is not there: %s", ofB)

	st := l.jobStatus(job)
	require.True(t, proto.Equal(&pb.DeviceSummary{Workers: 2, LowestUtilization: proto.Float64(0.5), HottestCelsius: proto.Float64(88)}, st.Devices), "%v", st.Devices)
	require.Len(t, st.Workers, 2)
	for rank, w := range st.Workers {
		require.Equal(t, v.Roster[rank].Id, w.Member)
		require.Equal(t, "h", w.Host)
		if w.Member == "a" {
			require.True(t, proto.Equal(busyGPU(), w.Device), "%v", w.Device)
		}
	}
	all, err := l.cl.Jobs(t.Context(), &pb.JobsRequest{})
	require.NoError(t, err)
	require.Empty(t, all.Jobs[0].Workers, "nobody asked")
	require.NotNil(t, all.Jobs[0].Devices)

	// Watchers hear of it with the next step.
	a.beatWith(gen, 2, busyGPU())
	watch, err := l.cl.Watch(t.Context(), &pb.WatchRequest{Job: job})
	require.NoError(t, err)
	for {
		e, err := watch.Recv()
		require.NoError(t, err)
		if p := e.GetProgress(); p.GetStep() == 2 {
			require.True(t, proto.Equal(st.Devices, p.Devices), "%v", p.Devices)
			break
		}
	}

	// Who has no reading any more, or leaves, leaves no figure behind.
	b.beatWith(gen, 2, nil)
	require.Eventually(t, func() bool { return !strings.Contains(scrape(), `member="b"`) }, soon, tick)
	require.EqualValues(t, 1, l.jobStatus(job).Devices.GetWorkers())
	require.NoError(t, a.st.CloseSend())
	require.Eventually(t, func() bool { return scrape() == "" }, soon, tick)
}

func TestDeviceMetricsOfAJobThatEnded(t *testing.T) {
	l, scrape := metered(t)
	job := submit(t, l, &pb.JobSpec{Min: 1, Start: 1, LivenessNanos: int64(time.Minute)})
	w := l.attach(t.Context(), job, "a", &pb.Fence{HoldsState: true})
	gen := joinAll(t, w).Generation
	w.beatWith(gen, 1, busyGPU())
	require.Eventually(t, func() bool { return scrape() != "" }, soon, tick)
	w.send(&pb.WorkerMessage{Of: &pb.WorkerMessage_Finished{Finished: &pb.Finished{Generation: gen, Step: 100, WeightsSha256: "aa"}}})
	lastEvent(t, l, job)
	require.Empty(t, scrape())
	st := l.jobStatus(job)
	require.Nil(t, st.Devices)
	require.Empty(t, st.Workers)
}

func TestDocumentHasAllMetrics(t *testing.T) {
	page, err := os.ReadFile("../docs/metrics.md")
	require.NoError(t, err)
	all := make(chan *prometheus.Desc)
	go func() { defer close(all); newMetrics().registry.Describe(all) }()
	n := 0
	for d := range all {
		name := regexp.MustCompile(`fqName: "([^"]+)"`).FindStringSubmatch(d.String())[1]
		require.Contains(t, string(page), "`"+name+"`")
		n++
	}
	require.Equal(t, n, len(regexp.MustCompile("`farandole_[a-z_]+`").FindAll(page, -1)), "and no others")
}

func TestHostileReadings(t *testing.T) {
	l, scrape := metered(t)
	job := submit(t, l, &pb.JobSpec{Min: 1, Start: 1, LivenessNanos: int64(time.Minute)})
	w := l.attach(t.Context(), job, "a", &pb.Fence{HoldsState: true})
	gen := joinAll(t, w).Generation
	w.beatWith(gen, 1, &pb.DeviceReading{
		Id: "GPU\"}\n\x1b[31m", Utilization: proto.Float64(1.01), MemoryUtilization: proto.Float64(math.NaN()), MemoryUsed: proto.Float64(-1),
		MemoryTotal: proto.Float64(math.Inf(1)), Power: proto.Float64(math.MaxFloat64), PowerLimit: proto.Float64(math.Inf(-1)),
		Temperature: proto.Float64(36), Throttle: proto.Uint32(math.MaxUint32 &^ 1),
	})
	require.Eventually(t, func() bool { return scrape() != "" }, soon, tick)
	for line := range strings.Lines(scrape()) {
		require.Regexp(t, `^farandole_gpu_(temperature_celsius|throttled)\{.*uuid=""\} (36|0|1)\n$`, line)
	}
	r := l.jobStatus(job).Workers[0].Device
	require.True(t, proto.Equal(&pb.DeviceReading{Temperature: proto.Float64(36), Throttle: proto.Uint32(0b11110)}, r), "%v", r)
	w.beatWith(gen, 2, &pb.DeviceReading{Id: strings.Repeat("x", maxDeviceID+1)})
	require.Eventually(t, func() bool { return scrape() == "" }, soon, tick, "a reading without figures")
	require.Empty(t, l.jobStatus(job).Workers[0].Device.GetId())
	require.Nil(t, l.jobStatus(job).Devices.LowestUtilization)
}
