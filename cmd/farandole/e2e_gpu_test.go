//go:build cuda

package main

import (
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/farandole-ml/farandole/kernels"
	"github.com/farandole-ml/farandole/kernels/cuda/gpus"
)

// The driver of these tests runs kernels on the CPU, a hundred times slower than the CPU's own: a small model, and few steps.
var gpuArgs = []string{"gpt", "--model", "tiny", "--steps", "30", "--shards", "8", "--batch", "8", "--seq", "8"}

// onGPUs are the tests' GPUs; without the emulator there is nothing to lose.
func onGPUs(t *testing.T, settings ...string) *e2e {
	e := newE2E(t)
	out, err := exec.Command(filepath.Join(e.dir, "gpt"), "--device", "cuda", "--steps", "0").CombinedOutput()
	require.NoError(t, err, "%s", out)
	for _, s := range settings {
		name, value, _ := strings.Cut(s, "=")
		t.Setenv("FARANDOLE_EMULATOR_"+name, value)
	}
	return e
}

func TestE2EGPUsGiveTheCPUsWeights(t *testing.T) {
	e := onGPUs(t, "GPUS=4", "LAZY=1")
	want := e.alone(append(gpuArgs, "--device", "cpu")...)
	require.Equal(t, want, e.alone(append(gpuArgs, "--device", "cuda")...))
	for _, transport := range []string{"auto", "shm"} { // in the GPUs' memory, and by way of the host
		flags := []string{"--workers", "3", "--max", "5", "--device", "cuda", "--transport", transport}
		r := e.run(append(flags, "--chaos", "kill rank=1 step=8; join step=15 count=2"), gpuArgs...)
		require.Zero(t, r.code, "%s", r.out)
		require.Equal(t, want, r.WeightsSHA256, "%s", r.out)
		requireLedger(t, r.summary, 30)
	}
}

// Workers of one host sum in the memory of their GPUs: several on one GPU, each on its own, and both at once, with one killed, one
// joining, and one that freezes while its memory is of use to others.
func TestE2EGPUsShareMemory(t *testing.T) {
	t.Setenv("FARANDOLE_LOG", "info")
	e := onGPUs(t)
	want := e.alone(append(gpuArgs, "--device", "cpu")...)
	for _, c := range []struct{ gpus, workers, more string }{{"1", "2", ""}, {"1", "4", "; stop rank=0 step=20 for=3s"}, {"2", "2", ""}, {"3", "4", ""}} {
		t.Run(c.workers+" on "+c.gpus, func(t *testing.T) {
			t.Setenv("FARANDOLE_EMULATOR_GPUS", c.gpus)
			t.Setenv("FARANDOLE_EMULATOR_LAZY", "1")
			r := e.run([]string{"--workers", c.workers, "--device", "cuda", "--chaos", "kill rank=1 step=8; join step=15" + c.more}, gpuArgs...)
			require.Zero(t, r.code, "%s", r.out)
			require.Equal(t, want, r.WeightsSHA256, "%s", r.out)
			requireLedger(t, r.summary, 30)
			require.Contains(t, r.out, "gradients are reduced in the memory of GPUs")
			require.NotContains(t, r.out, "by way of the host")
			require.NotContains(t, r.out, "emulated driver")
		})
	}
}

// Where one worker's GPU does not reach another's, or the job asks for another path, all gradients go by way of the host.
func TestE2EGPUsShareNoMemory(t *testing.T) {
	t.Setenv("FARANDOLE_LOG", "info")
	e := onGPUs(t, "GPUS=3", "ALONE=1")
	args := append(gpuArgs, "--steps", "5")
	want := e.alone(append(args, "--device", "cpu")...)
	for says, flags := range map[string][]string{
		`by=0 because="cuda Emulated sm_80, GPU 0: Import: it has no access to the memory of GPU 1"`: nil,
		"formed": {"--transport", "tcp"},
	} {
		r := e.run(append(flags, "--workers", "3", "--device", "cuda"), args...)
		require.Zero(t, r.code, "%s", r.out)
		require.Equal(t, want, r.WeightsSHA256, "%s", r.out)
		require.Contains(t, r.out, says)
		require.NotContains(t, r.out, "in the memory of GPUs")
	}
}

// Products of bfloat16 have the bits of the GPU's kind: the same for any number of workers, with one killed and others joining.
func TestE2EGPUsInBF16GiveTheSameWeights(t *testing.T) {
	e := onGPUs(t, "GPUS=4", "LAZY=1")
	args := append(gpuArgs, "--precision", "bf16")
	want := e.alone(append(args, "--device", "cuda")...)
	require.NotEqual(t, e.alone(append(gpuArgs, "--device", "cuda")...), want, "that is another class")
	require.NotEqual(t, e.alone(append(args, "--device", "cpu")...), want, "and so is that")
	r := e.run([]string{"--workers", "3", "--max", "5", "--device", "cuda", "--chaos", "kill rank=1 step=8; join step=15 count=2"}, args...)
	require.Zero(t, r.code, "%s", r.out)
	require.Equal(t, want, r.WeightsSHA256, "%s", r.out)
	requireLedger(t, r.summary, 30)
}

// GPUs of two kinds cannot train together in bfloat16: a worker on one is refused, and the job goes on with the other alone. In
// float32 they can.
func TestE2EGPUsOfTwoKinds(t *testing.T) {
	e := onGPUs(t, "GPUS=2", "CAPABILITY=1:90")
	args := append(gpuArgs, "--steps", "5")
	flags := []string{"--workers", "2", "--device", "cuda"}
	const refused = `this worker was refused: its arithmetic is of class "bf16-mma-sm_\d0", this job's of class "bf16-mma-sm_\d0": ` +
		`their results differ in the last bits, so they cannot train together`
	r := e.run(flags, append(args, "--precision", "bf16")...)
	require.Zero(t, r.code, "%s", r.out)
	require.Regexp(t, refused, r.out)
	require.Equal(t, []int{1}, r.WorldSizes)
	r = e.run(flags, args...)
	require.Zero(t, r.code, "%s", r.out)
	require.NotContains(t, r.out, "refused")
	require.Contains(t, r.WorldSizes, 2)
}

// A GPU that is lost takes its worker with it, and no other: four workers on four GPUs become three.
func TestE2ELostGPUGivesTheSameWeights(t *testing.T) {
	e := onGPUs(t, "GPUS=4", "LOSE=2:900")
	want := e.alone(append(gpuArgs, "--device", "cpu")...)
	r := e.run([]string{"--workers", "4", "--min", "2", "--device", "cuda"}, gpuArgs...)
	require.Zero(t, r.code, "%s", r.out)
	require.Equal(t, want, r.WeightsSHA256, "%s", r.out)
	requireLedger(t, r.summary, 30)
	require.Contains(t, r.out, "GPU 2: ", "the worker says which")
	require.GreaterOrEqual(t, r.Generations, 2, "%s", r.out)
	require.Contains(t, r.WorldSizes, 4)
	require.Contains(t, r.WorldSizes, 3)
}

// A checkpoint of a GPU goes on on the CPU, and one of the CPU on a GPU.
func TestE2ECheckpointBetweenGPUAndCPU(t *testing.T) {
	e := onGPUs(t, "GPUS=2")
	want := e.alone(append(gpuArgs, "--device", "cpu")...)
	for _, devices := range [][2]string{{"cuda", "cpu"}, {"cpu", "cuda"}} {
		dir, file := filepath.Join(e.TempDir(), "ckpt"), filepath.Join(e.TempDir(), "s.json")
		flags := []string{"--workers", "2", "--checkpoint-dir", dir, "--checkpoint-every", "4"}
		cmd, out := e.command(file, append(flags, "--device", devices[0]), gpuArgs...)
		require.NoError(t, cmd.Start())
		commit := filepath.Join(dir, "step-00000004", "COMMIT")
		require.Eventually(t, func() bool { _, err := os.Stat(commit); return err == nil }, e2eLimit, time.Millisecond, "%s", dir)
		require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
		first := e.wait(cmd, out, file)
		require.Equal(t, 143, first.code, "%s", first.out)
		second := e.run(append(flags, "--device", devices[1]), gpuArgs...)
		require.Zero(t, second.code, "%s", second.out)
		require.Equal(t, want, second.WeightsSHA256, "%v\n%s\n%s", devices, first.out, second.out)
	}
}

func TestDoctorSeesGPUs(t *testing.T) {
	require.Equal(t, ok("GPUs", "no GPU: NVML: no driver: workers compute on the CPU"),
		gpuFinding(gpus.Host{}, fmt.Errorf("%w: NVML: no driver", kernels.ErrNoGPU)))
	f := gpuFinding(gpus.Host{}, errors.New("NVML: GPU 1: GPU is lost"))
	require.Equal(t, verdictWarn, f.Verdict)
	require.Equal(t, "NVML: GPU 1: GPU is lost", f.Found)

	e := onGPUs(t, "GPUS=3")
	out, _ := exec.Command(filepath.Join(e.dir, "farandole"), "doctor").CombinedOutput()
	require.Contains(t, string(out), "3 × Emulated GPU with 1 GiB, driver 0.0 (emulated)")
	require.Contains(t, string(out), "GPU 2          0 % busy, memory 0 % busy, 0 of 1 GiB used, 12 W, 31 °C, SM 0.21 of 1.41 GHz\n")

	require.Equal(t, ok("GPU 0", "31 °C"), healthFinding(0, warmth(31), nil))
	f = healthFinding(1, warmth(88), nil)
	require.Equal(t, verdictWarn, f.Verdict)
	require.Equal(t, "88 °C; 88 °C, and it slows down at 90", f.Found)
	f = healthFinding(2, kernels.Reading{}, errors.New("NVML: GPU 2: GPU is lost"))
	require.Equal(t, verdictWarn, f.Verdict)
	require.Equal(t, "NVML: GPU 2: GPU is lost", f.Found)
}

// warmth is a GPU that says nothing but its temperature.
func warmth(celsius float64) kernels.Reading {
	no := math.NaN()
	return kernels.Reading{Utilization: no, MemoryUtilization: no, MemoryUsed: no, MemoryTotal: no, Power: no, PowerLimit: no, Temperature: celsius,
		SlowdownTemperature: 90, SMClock: no, MaxSMClock: no, Corrected: no, Uncorrected: no}
}

// Without a GPU the device cuda ends a job with one sentence.
func TestE2ENoGPU(t *testing.T) {
	e := onGPUs(t, "GPUS=0")
	r := e.run([]string{"--workers", "2", "--device", "cuda"}, gpuArgs...)
	require.Equal(t, 2, r.code)
	require.Contains(t, r.out, "--device cuda: no GPU for CUDA: the driver says: no CUDA-capable device is detected (CUDA error 100)")
	r = e.run([]string{"--workers", "1", "--device", "auto"}, append(gpuArgs, "--steps", "1")...)
	require.Zero(t, r.code, "%s", r.out)
}
