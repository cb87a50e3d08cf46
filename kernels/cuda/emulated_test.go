//go:build cuda

package cuda

import (
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/farandole-ml/farandole/kernels"
)

// childOf names the test that a process of its own runs, with other GPUs than the tests around it.
const childOf = "FARANDOLE_TEST_CHILD"

// emulated runs the calling test in a process of its own whose GPUs are as settings say, NAME=VALUE of
// FARANDOLE_EMULATOR_NAME. It is true in that process.
func emulated(t *testing.T, settings ...string) bool {
	t.Helper()
	if os.Getenv(childOf) == t.Name() {
		return true
	}
	needEmulator(t)
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.count=1", "-test.v", "-test.timeout=3m")
	cmd.Env = append(os.Environ(), childOf+"="+t.Name())
	for _, s := range settings {
		cmd.Env = append(cmd.Env, "FARANDOLE_EMULATOR_"+s)
	}
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Contains(t, string(out), "--- PASS: "+t.Name(), "the test itself ran")
	return false
}

// mustEmulate is set where the GPUs have to be the emulator's: make test-cuda would test little if they were not.
const mustEmulate = "FARANDOLE_TEST_EMULATOR"

// onEmulator says whether the GPUs are the emulator's. There nothing is missing that a test needs.
func onEmulator(t testing.TB) bool {
	t.Helper()
	if os.Getenv(childOf) != "" {
		return true
	}
	d, err := kernels.Open("cuda", kernels.Config{})
	require.NoError(t, err)
	defer d.Close()
	if os.Getenv(mustEmulate) != "" {
		require.Contains(t, d.Name(), "Emulated", "%s is set, and this is no GPU of the emulator", mustEmulate)
	}
	return strings.Contains(d.Name(), "Emulated")
}

// needEmulator skips a test on a GPU that is none of the emulator's.
func needEmulator(t *testing.T) {
	t.Helper()
	if !onEmulator(t) {
		t.Skip("needs the emulator")
	}
}

// skipWithout skips a test on a real GPU that is without something, as err says. On the emulator that is a failure.
func skipWithout(t testing.TB, err error) {
	t.Helper()
	if err == nil {
		return
	}
	if onEmulator(t) {
		require.NoError(t, err, "the emulator has that: make test-cuda builds all of it")
	}
	t.Skip(err)
}

func uploaded(t testing.TB, d *device, x ...float32) kernels.Buffer {
	t.Helper()
	b, err := d.Alloc(len(x))
	require.NoError(t, err)
	d.Upload(b, x)
	return b
}

// requireFailed checks that d tells the same failure from now on, whatever is done.
func requireFailed(t *testing.T, d *device, b kernels.Buffer, says ...string) {
	t.Helper()
	err := d.Sync()
	var failed *kernels.DeviceError
	require.ErrorAs(t, err, &failed)
	require.Equal(t, d.Name(), failed.Device)
	for _, s := range says {
		require.ErrorContains(t, err, s)
	}
	d.Scale(b, 2)
	d.Upload(b, make([]float32, b.Len()))
	require.Equal(t, err, d.Download(make([]float32, b.Len()), b))
	_, again := d.Alloc(1)
	require.Equal(t, err, again)
	require.Equal(t, err, d.Sync())
}

func TestLaunchThatFails(t *testing.T) {
	if !emulated(t, "FAIL=0:3") {
		return
	}
	d := newDevice(t)
	b := uploaded(t, d, 1, 2, 3)
	d.Scale(b, 2)
	d.Add(b, b, b)
	x := make([]float32, 3)
	require.NoError(t, d.Download(x, b))
	require.Equal(t, []float32{4, 8, 12}, x)
	d.ReLU(b, b)
	d.GELU(b, b)
	requireFailed(t, d, b, "GPU 0: ReLU: unspecified launch failure (CUDA error 719)")
}

// TestLazyLaunchThatFails: work that fails while nobody looks is told by the wait, which cannot know what it was.
func TestLazyLaunchThatFails(t *testing.T) {
	if !emulated(t, "LAZY=1", "FAIL=0:1") {
		return
	}
	d := newDevice(t)
	b := uploaded(t, d, 1, 2, 3)
	d.ReLU(b, b)
	d.GELU(b, b)
	requireFailed(t, d, b, "GPU 0: GELU: unspecified launch failure (CUDA error 719), in this or an operation shortly before")
}

func TestLostGPU(t *testing.T) {
	if !emulated(t, "GPUS=3", "LOSE=1:2") {
		return
	}
	zero, one := deviceOf(t, 0), deviceOf(t, 4)
	require.Contains(t, one.Name(), "GPU 1", "the fifth worker of three GPUs")
	a, b := uploaded(t, zero, 1), uploaded(t, one, 1)
	for range 2 {
		zero.Scale(a, 2)
		one.Scale(b, 2)
	}
	requireFailed(t, one, b, "GPU 1: Scale: ", "unavailable")

	x := make([]float32, 1)
	require.NoError(t, zero.Download(x, a), "the others do not notice")
	require.Equal(t, []float32{4}, x)
	require.Contains(t, deviceOf(t, 1).Name(), "GPU 2", "a worker whose GPU is lost takes the next")
}

func TestOutOfMemory(t *testing.T) {
	if !emulated(t, "MEMORY=8388608") {
		return
	}
	d := newDevice(t)
	const half = 1 << 20 // values
	kept, err := d.Alloc(half)
	require.NoError(t, err)
	_, err = d.Alloc(half + half/2)
	var failed *kernels.DeviceError
	require.ErrorAs(t, err, &failed)
	require.ErrorContains(t, err, "6.0 MiB wanted, 4.0 MiB of 8.0 MiB are free")
	require.NoError(t, d.Sync(), "one may go on with less")

	// What nothing refers to any more makes room, in pieces of another size too.
	for range 20 {
		_, err := d.Alloc(half / 2)
		require.NoError(t, err)
	}
	_, err = d.Alloc(half - 1000)
	require.NoError(t, err)
	x := make([]float32, half)
	require.NoError(t, d.Download(x, kept))
	require.Equal(t, make([]float32, half), x, "memory that is in use is nobody else's")
}

// TestScratchOutOfMemory: memory that an operation needs for itself cannot be refused to anyone, so the error sticks.
func TestScratchOutOfMemory(t *testing.T) {
	if !emulated(t, "MEMORY=8388608") {
		return
	}
	d := newDevice(t)
	const pixels = 1 << 19
	x, err := d.Alloc(pixels)
	require.NoError(t, err)
	w, err := d.Alloc(9)
	require.NoError(t, err)
	g := kernels.Window{Images: 1, Height: 1 << 10, Width: pixels >> 10, Channels: 1, Rows: 3, Columns: 3, Stride: 1, Pad: 1}
	out, err := d.Alloc(g.Positions())
	require.NoError(t, err)
	d.Conv(out, x, w, nil, 1, g)
	requireFailed(t, d, w, "GPU 0: Conv: ", "MiB wanted")
}

func TestNoGPU(t *testing.T) {
	if os.Getenv(childOf) == t.Name() {
		_, err := kernels.Open("cuda", kernels.Config{})
		require.ErrorIs(t, err, kernels.ErrNoGPU)
		require.EqualError(t, err, "device cuda: no GPU for CUDA: the driver says: no CUDA-capable device is detected (CUDA error 100)")
		return
	}
	emulated(t, "GPUS=0")
}

func TestFirstThatOpens(t *testing.T) {
	ill := errors.New("ill")
	var log strings.Builder
	logger := slog.New(slog.NewTextHandler(&log, nil))
	var tried []int
	open := func(works int) func(i int) (*device, error) {
		return func(i int) (*device, error) {
			if tried = append(tried, i); i != works {
				return nil, ill
			}
			return &device{name: "well"}, nil
		}
	}
	d, err := firstOf(2, 3, open(1), logger)
	require.NoError(t, err)
	require.Equal(t, "well", d.Name())
	require.Equal(t, []int{2, 0, 1}, tried)
	require.Equal(t, 2, strings.Count(log.String(), "err=ill chosen=well"))
	_, err = firstOf(0, 2, open(9), logger)
	require.ErrorIs(t, err, ill)
}

func TestAuto(t *testing.T) {
	if !emulated(t, "GPUS=2") {
		return
	}
	var log strings.Builder
	d, err := kernels.Open("auto", kernels.Config{LocalRank: 1, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	require.NoError(t, err)
	defer d.Close()
	require.Contains(t, d.Name(), "GPU 1")
	require.Contains(t, log.String(), `chosen="cuda Emulated sm_80, GPU 1" because="NVML finds 2 × Emulated GPU with 1 GiB, driver 0.0 (emulated); local rank 1 of 2 GPUs for this process"`)
}
