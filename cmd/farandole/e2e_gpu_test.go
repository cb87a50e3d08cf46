//go:build cuda

package main

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
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
	r := e.run([]string{"--workers", "3", "--max", "5", "--device", "cuda", "--chaos", "kill rank=1 step=8; join step=15 count=2"}, gpuArgs...)
	require.Zero(t, r.code, "%s", r.out)
	require.Equal(t, want, r.WeightsSHA256, "%s", r.out)
	requireLedger(t, r.summary, 30)
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
		dir := e.TempDir()
		half := []string{"--workers", "2", "--checkpoint-dir", dir, "--checkpoint-every", "10"}
		r := e.run(append(half, "--device", devices[0], "--chaos", "kill rank=0 step=14; kill rank=1 step=14"), gpuArgs...)
		require.NotZero(t, r.code, "%s", r.out)
		r = e.run(append(half, "--device", devices[1]), gpuArgs...)
		require.Zero(t, r.code, "%s", r.out)
		require.Equal(t, want, r.WeightsSHA256, "%v: %s", devices, r.out)
	}
}
