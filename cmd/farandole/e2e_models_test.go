package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
)

// A convolution's gradient is summed over pixels within a shard only: the number of workers does not show.
func TestE2EConvolutionGivesTheSameWeights(t *testing.T) {
	e := newE2E(t)
	cnn := []string{"mnist", "--model", "cnn-tiny", "--steps", "40", "--shards", "8", "--batch", "64"}
	want := e.alone(cnn...)
	for _, w := range []int{2, 3} {
		r := e.run([]string{"--workers", strconv.Itoa(w), "--chaos", "kill rank=1 step=10; join step=20"}, cnn...)
		require.Zero(t, r.code, "%s", r.out)
		require.Equal(t, want, r.WeightsSHA256, "%d workers\n%s", w, r.out)
		requireLedger(t, r.summary, 40)
	}
}

// Class bf16-amx is as exact as others, with AMX and without; it is a class of its own, which nobody joins with another.
func TestE2EProductsByAMXGiveTheSameWeights(t *testing.T) {
	e := newE2E(t)
	bf16 := append(slices.Clone(gptArgs), "--precision", "bf16")
	args := append(slices.Clone(bf16), "--products", "amx")
	want := e.alone(args...)
	require.NotEqual(t, e.alone(bf16...), want, "that is another class")
	r := e.run([]string{"--workers", "3", "--chaos", "kill rank=1 step=20; join step=30"}, args...)
	require.Zero(t, r.code, "%s", r.out)
	require.Equal(t, want, r.WeightsSHA256, "%s", r.out)
	requireLedger(t, r.summary, 60)

	r = e.run([]string{"--workers", "1"}, append(slices.Clone(gptArgs), "--products", "amx")...)
	require.NotZero(t, r.code)
	require.Contains(t, r.out, "products amx: it multiplies bfloat16: use precision bf16 with it, or products own")
}

// Weights go out to a file for other programs, and come back from it.
func TestE2EWeightsInHuggingFacesLayout(t *testing.T) {
	e := newE2E(t)
	dir, file, again := e.TempDir(), filepath.Join(e.TempDir(), "model.safetensors"), filepath.Join(e.TempDir(), "again.safetensors")
	model := []string{"gpt", "--model", "tiny", "--shards", "8", "--batch", "32", "--seq", "64"}
	r := e.run([]string{"--workers", "2", "--checkpoint-dir", dir}, append(model, "--steps", "5")...)
	require.Zero(t, r.code, "%s", r.out)

	export := func(dir, file string, flags ...string) (string, error) {
		args := append([]string{"checkpoint", "export", dir, file}, flags...)
		out, err := exec.Command(filepath.Join(e.dir, "farandole"), args...).CombinedOutput()
		return string(out), err
	}
	out, err := export(dir, file, "--layout", "huggingface")
	require.NoError(t, err, out)
	require.Contains(t, out, "wrote step 5")
	require.Contains(t, out, "28 tensors")

	// Beginning with the file is beginning with the weights, whatever the seed and the number of workers.
	begin := append(model, "--init", file, "--steps", "1", "--seed", "3")
	want, kept := e.alone(begin...), e.TempDir()
	r = e.run([]string{"--workers", "3", "--checkpoint-dir", kept}, begin...)
	require.Zero(t, r.code, "%s", r.out)
	require.Equal(t, want, r.WeightsSHA256)

	out, err = export(kept, again, "--layout", "huggingface", "--dtype", "bf16")
	require.NoError(t, err, out)
	whole, err := os.Stat(file)
	require.NoError(t, err)
	half, err := os.Stat(again)
	require.NoError(t, err)
	require.Less(t, half.Size(), whole.Size()*6/10)

	for says, flags := range map[string][]string{
		"--layout wants farandole or huggingface":  {"--layout", "onnx"},
		"--dtype wants f32 or bf16 or f16":         {"--layout", "huggingface", "--dtype", "int4"},
		"--dtype bf16 goes with":                   {"--dtype", "bf16"},
		"the directory /nowhere/at does not exist": nil,
	} {
		to := again
		if flags == nil {
			to = "/nowhere/at/all"
		}
		out, err = export(dir, to, flags...)
		require.Error(t, err)
		require.Contains(t, out, says)
	}

	digits := e.TempDir()
	r = e.run([]string{"--workers", "1", "--checkpoint-dir", digits}, "mnist", "--model", "mlp-tiny", "--steps", "1")
	require.Zero(t, r.code, "%s", r.out)
	out, err = export(digits, again, "--layout", "huggingface")
	require.Error(t, err)
	require.Contains(t, out, "--layout huggingface is for a GPT-2, and this checkpoint is of")
	r = e.run([]string{"--workers", "1"}, append(model, "--steps", "1", "--init", dir)...)
	require.Equal(t, 2, r.code)
	require.Contains(t, r.out, "is a directory: name the safetensors file in it")
}
