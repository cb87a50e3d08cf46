//go:build cuda

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
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

// Workers that share no memory send gradients from GPU to GPU, with one killed and one that joins, and one that freezes while the others wait for it.
func TestE2EGPUsSendGradients(t *testing.T) {
	t.Setenv("FARANDOLE_LOG", "info")
	e := onGPUs(t, "GPUS=5")
	want := e.alone(append(gpuArgs, "--device", "cpu")...)
	for _, c := range []struct{ workers, lazy, more string }{{"2", "0", ""}, {"3", "1", "; stop rank=0 step=20 for=3s"}, {"4", "1", ""}} {
		t.Run(c.workers, func(t *testing.T) {
			t.Setenv("FARANDOLE_EMULATOR_LAZY", c.lazy)
			flags := []string{"--workers", c.workers, "--device", "cuda", "--gpu-reduce", "nccl", "--chaos", "kill rank=1 step=8; join step=15" + c.more}
			r := e.run(flags, gpuArgs...)
			require.Zero(t, r.code, "%s", r.out)
			require.Equal(t, want, r.WeightsSHA256, "%s", r.out)
			requireLedger(t, r.summary, 30)
			require.Contains(t, r.out, "gradients are reduced between GPUs by NCCL")
			require.NotContains(t, r.out, "in the memory of GPUs")
			if c.workers != "2" { // a member that is alone has nobody to send to
				require.NotContains(t, r.out, "by way of the host")
			}
			require.NotContains(t, r.out, "emulated driver")
			require.NotContains(t, r.out, "emulated NCCL")
		})
	}
}

// The rounded wire has every node of the tree rounded where it is: in the memory of GPUs, or by way of the host, never by NCCL, which would send twice as much.
func TestE2EGPUsRoundTheTree(t *testing.T) {
	t.Setenv("FARANDOLE_LOG", "info")
	e := onGPUs(t, "GPUS=3")
	alone := e.run([]string{"--workers", "1", "--wire", "bf16"}, append(gpuArgs, "--device", "cpu")...)
	require.Zero(t, alone.code, "%s", alone.out)
	for apart, says := range map[string]string{
		"-1": "gradients are reduced in the memory of GPUs",
		"1":  "NCCL would send all 32 bits of a value, where --wire bf16 asks for 16",
	} {
		t.Run(apart, func(t *testing.T) {
			t.Setenv("FARANDOLE_EMULATOR_ALONE", apart)
			r := e.run([]string{"--workers", "3", "--device", "cuda", "--wire", "bf16", "--chaos", "kill rank=1 step=8; join step=15"}, gpuArgs...)
			require.Zero(t, r.code, "%s", r.out)
			require.Equal(t, alone.WeightsSHA256, r.WeightsSHA256, "%s", r.out)
			require.Contains(t, r.out, says)
			require.Equal(t, apart == "1", strings.Contains(r.out, "by way of the host"), "%s", r.out)
		})
	}
}

// Where one worker's GPU does not reach another's, or the job asks for it, gradients are sent from GPU to GPU, and where that is not possible
// either, or the job asks for another path, all go by way of the host.
func TestE2EGPUsShareNoMemory(t *testing.T) {
	t.Setenv("FARANDOLE_LOG", "info")
	e := onGPUs(t, "GPUS=3", "ALONE=1")
	args := append(gpuArgs, "--steps", "5")
	want := e.alone(append(args, "--device", "cpu")...)
	const apart = `by=0 because="cuda Emulated sm_80, GPU 0: Import: it has no access to the memory of GPU 1; `
	for _, c := range []struct {
		says    string
		nccl    bool
		setting string // of the emulator
		flags   []string
	}{
		{says: "between GPUs by NCCL", nccl: true},
		{says: "between GPUs by NCCL", nccl: true, flags: []string{"--transport", "tcp", "--gpu-reduce", "nccl"}},
		{says: apart + `--gpu-reduce ipc is asked for"`, flags: []string{"--gpu-reduce", "ipc"}},
		{says: apart + `cuda Emulated sm_80, GPU 0: NCCL is here in version 2.17.1: install 2.18.3 or newer"`, setting: "NCCL_VERSION=21701"},
		{says: apart + `cuda Emulated sm_80, GPU 0: JoinExchange: NCCL: `, setting: "NCCL_FAIL=2"},
		{says: "ranks 0 and 2 are on one GPU, and NCCL has one rank on each", setting: "GPUS=2"},
		{says: "formed", flags: []string{"--transport", "tcp"}},
		{says: "formed", flags: []string{"--gpu-reduce", "host"}},
	} {
		t.Run(c.setting+strings.Join(c.flags, " "), func(t *testing.T) {
			if name, value, ok := strings.Cut(c.setting, "="); ok {
				t.Setenv("FARANDOLE_EMULATOR_"+name, value)
			}
			r := e.run(append(c.flags, "--workers", "3", "--device", "cuda"), args...)
			require.Zero(t, r.code, "%s", r.out)
			require.Equal(t, want, r.WeightsSHA256, "%s", r.out)
			require.Contains(t, r.out, c.says)
			require.Equal(t, c.nccl, strings.Contains(r.out, "by NCCL"), "%s", r.out)
			require.NotContains(t, r.out, "in the memory of GPUs")
		})
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
	const refused = `this worker was refused: its arithmetic is of class "bf16-\w+-sm_\d0", this job's of class "bf16-\w+-sm_\d0": ` +
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

// Products by cuBLASLt have bits of their own: the same for any number of workers, with one killed. A worker without is refused, and without the
// library there is one sentence.
func TestE2EGPUsByCuBLASLtGiveTheSameWeights(t *testing.T) {
	e := onGPUs(t, "GPUS=2")
	bf16 := append(gpuArgs, "--precision", "bf16", "--device", "cuda")
	args := append(bf16, "--products", "cublaslt")
	want := e.alone(args...)
	require.NotEqual(t, e.alone(bf16...), want, "that is another class")
	r := e.run([]string{"--workers", "2", "--chaos", "kill rank=1 step=8; join step=15"}, args...)
	require.Zero(t, r.code, "%s", r.out)
	require.Equal(t, want, r.WeightsSHA256, "%s", r.out)
	requireLedger(t, r.summary, 30)
	require.GreaterOrEqual(t, r.Generations, 2, "%s", r.out)
	require.NotContains(t, r.out, "emulated")

	// One of two workers has the option.
	mixed := filepath.Join(e.TempDir(), "mixed.sh")
	script := "#!/bin/sh\nif mkdir \"$0.first\" 2>/dev/null; then exec \"$@\" --products cublaslt; fi\nexec \"$@\"\n"
	require.NoError(t, os.WriteFile(mixed, []byte(script), 0o755))
	program, err := filepath.Rel(e.dir, mixed)
	require.NoError(t, err)
	r = e.run([]string{"--workers", "2"}, append([]string{program, filepath.Join(e.dir, "gpt")}, append(bf16[1:], "--steps", "5")...)...)
	require.Zero(t, r.code, "%s", r.out)
	require.Regexp(t, `this worker was refused: its arithmetic is of class "bf16-\S+", this job's of class "bf16-\S+": their results differ in the last bits`, r.out)
	require.Contains(t, r.out, `"bf16-cublaslt-sm_80-131000-8"`)
	require.Equal(t, []int{1}, r.WorldSizes)
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

// Metrics, status and the progress line say how the workers' GPUs are while a job runs, and nothing of a worker that is gone.
func TestE2EGPUsSayHowTheyAre(t *testing.T) {
	e := onGPUs(t, "GPUS=2", "HEAT=1:87")
	addr := freeAddr(t)
	cmd, _ := e.command(filepath.Join(e.TempDir(), "s.json"), []string{"--workers", "2", "--device", "cuda", "--http", addr}, append(gpuArgs, "--steps", "1000000")...)
	out := new(tailBuffer)
	cmd.Stdout, cmd.Stderr = out, out
	require.NoError(t, cmd.Start())
	hung := time.AfterFunc(e2eLimit, func() { _ = cmd.Process.Kill() })
	defer hung.Stop()
	defer func() { _ = cmd.Process.Kill() }()
	temperatures := func() (byMember map[string]string) {
		byMember = map[string]string{}
		r, err := http.Get("http://" + addr + "/metrics")
		if err != nil {
			return byMember // it does not serve yet
		}
		defer r.Body.Close()
		body, _ := io.ReadAll(r.Body)
		for _, m := range temperatureLine.FindAllStringSubmatch(string(body), -1) {
			byMember[m[1]] = m[2]
		}
		return byMember
	}
	seen := func(what string, ok func() bool) {
		t.Helper()
		require.Eventually(t, ok, e2eLimit, 20*time.Millisecond, "%s\n%s", what, out)
	}
	seen("two gauges", func() bool { return len(temperatures()) == 2 })
	seen("the progress line", func() bool { return strings.Contains(out.String(), "  GPUs ≥0 % ≤87 °C") })
	require.Equal(t, 1, strings.Count(out.String(), `level=WARN msg="the device is not well`), "%s", out)

	where := regexp.MustCompile(`job (\S+): .* coordinator at ([0-9.:]+),`).FindStringSubmatch(out.String())
	require.NotNil(t, where, "%s", out)
	status := func(args ...string) string {
		b, err := exec.Command(filepath.Join(e.dir, "farandole"), append([]string{"status", where[1], "--coordinator", where[2]}, args...)...).Output()
		require.NoError(t, err)
		return string(b)
	}
	require.Regexp(t, `\nrank \d +on \S+, GPU 0 % 0/1 GiB 12 W 87 °C; 87 °C, and it slows down at 90\n`, status())
	var jobs []jobView
	require.NoError(t, json.Unmarshal([]byte(status("-o", "json")), &jobs))
	require.Len(t, jobs[0].Workers, 2)
	hot := slices.IndexFunc(jobs[0].Workers, func(w workerView) bool { return *w.GPU.Temperature == 87 })
	require.GreaterOrEqual(t, hot, 0)
	gone, stays := jobs[0].Workers[hot], jobs[0].Workers[1-hot]
	require.Equal(t, map[string]string{gone.Member: "87", stays.Member: "31"}, temperatures())

	require.NoError(t, syscall.Kill(int(gone.PID), syscall.SIGKILL))
	seen("one gauge", func() bool { return maps.Equal(temperatures(), map[string]string{stays.Member: "31"}) })
	require.NoError(t, cmd.Process.Signal(os.Interrupt))
	_ = cmd.Wait()
	require.Equal(t, exitInterrupted, cmd.ProcessState.ExitCode(), "%s", out)
}

var temperatureLine = regexp.MustCompile(`(?m)^farandole_gpu_temperature_celsius\{.*member="([^"]+)".*\} (\d+)$`)
