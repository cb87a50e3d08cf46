package main

import (
	"bytes"
	"encoding/json"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	pb "github.com/farandole-ml/farandole/coordinator/coordinatorpb"
)

// A job with three workers: a GPU that is hot, one that says little, and none.
func gpuJob() *pb.JobStatus {
	return &pb.JobStatus{
		Job: "gpt-1", Status: "running", Step: 7, World: 3, Generation: 1, Loss: 2,
		Devices: &pb.DeviceSummary{Workers: 2, LowestUtilization: proto.Float64(0.5), HottestCelsius: proto.Float64(86)},
		Workers: []*pb.Worker{
			{Member: "a", Host: "mars", Pid: 11, Device: &pb.DeviceReading{
				Id: "GPU-1", Utilization: proto.Float64(0.93), MemoryUsed: proto.Float64(61 << 30), MemoryTotal: proto.Float64(80 << 30),
				Power: proto.Float64(640), Temperature: proto.Float64(86), SlowdownTemperature: proto.Float64(90), Throttle: proto.Uint32(16 | 1),
			}},
			{Member: "b", Host: "venus", Pid: 12, Device: &pb.DeviceReading{Utilization: proto.Float64(0.5), MemoryUsed: proto.Float64(1 << 30)}},
			{Member: "c", Host: "venus", Pid: 13},
		},
	}
}

func TestStatusShowsGPUs(t *testing.T) {
	var out bytes.Buffer
	printJob(&out, gpuJob())
	require.Equal(t, `job         gpt-1
status      running
step        7
loss        2.0000
workers     3
generation  1
rank 0      on mars, GPU 93 % 61/80 GiB 640 W 86 °C; slowed down: power brake; 86 °C, and it slows down at 90
rank 1      on venus, GPU 50 % 1 GiB
`, out.String())
	out.Reset()
	printJobs(&out, []*pb.JobStatus{gpuJob(), {Job: "mnist-1", Status: "waiting"}})
	require.Equal(t, `JOB      STATUS   STEP  LOSS    WORKERS  GENERATION  GPUS
gpt-1    running  7     2.0000  3        1           GPUs ≥50 % ≤86 °C
mnist-1  waiting  0     -       0        0           -
`, out.String())
	out.Reset()
	printJobs(&out, []*pb.JobStatus{{Job: "mnist-1", Status: "waiting"}})
	require.NotContains(t, out.String(), "GPU", "nobody has one")
}

func TestStatusInJSONHasGPUs(t *testing.T) {
	b, err := json.Marshal(jobViews([]*pb.JobStatus{gpuJob(), {Job: "mnist-1"}}))
	require.NoError(t, err)
	var all []map[string]any
	require.NoError(t, json.Unmarshal(b, &all))
	require.Equal(t, map[string]any{"workers": 2.0, "lowest_utilization_ratio": 0.5, "hottest_celsius": 86.0}, all[0]["gpus"])
	workers := all[0]["workers"].([]any)
	require.Len(t, workers, 3)
	first := workers[0].(map[string]any)
	require.Equal(t, "mars", first["host"])
	require.Equal(t, 11.0, first["pid"])
	gpu := first["gpu"].(map[string]any)
	require.Equal(t, 0.93, gpu["utilization_ratio"])
	require.Equal(t, "GPU-1", gpu["uuid"])
	require.Nil(t, gpu["sm_clock_hertz"])
	require.Equal(t, []any{"slowed down: power brake", "86 °C, and it slows down at 90"}, gpu["concerns"])
	require.Equal(t, []any{}, workers[1].(map[string]any)["gpu"].(map[string]any)["concerns"])
	require.Nil(t, workers[2].(map[string]any)["gpu"])
	require.NotContains(t, all[1], "workers", "they were not asked for")
	require.Nil(t, all[1]["gpus"])
}

func TestProgressShowsGPUs(t *testing.T) {
	r := newRenderer(&console{}, time.Now)
	r.last = &pb.Progress{Step: 7, Loss: 2, World: 2, Generation: 1}
	require.Equal(t, []string{"step 7", "loss 2.0000", "2 workers", "generation 1"}, r.fields())
	r.last.Devices = gpuJob().Devices
	require.Equal(t, "GPUs ≥50 % ≤86 °C", r.fields()[4])
	r.last.Devices = &pb.DeviceSummary{Workers: 1, HottestCelsius: proto.Float64(40)}
	require.Equal(t, "GPU 40 °C", r.fields()[4])
	r.last.Devices = &pb.DeviceSummary{Workers: 1}
	require.Len(t, r.fields(), 4, "nothing is known of it")
}

func TestReadingOfAMessage(t *testing.T) {
	r := readingOf(&pb.DeviceReading{Utilization: proto.Float64(0)})
	require.Zero(t, r.Utilization)
	require.True(t, math.IsNaN(r.Power))
	require.False(t, r.ThrottleKnown)
	require.Empty(t, r.Concerns())
	require.Equal(t, "GPU 0 %", gpuText(r))
}
