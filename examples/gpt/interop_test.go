package main

import (
	"encoding/json"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/farandole-ml/farandole/checkpoint"
	"github.com/farandole-ml/farandole/kernels"
	"github.com/farandole-ml/farandole/kernels/nn"
	"github.com/farandole-ml/farandole/worker"
	"github.com/farandole-ml/farandole/worker/fit"
)

// reference is what peers/reference.py says of the weights in a file.
type reference struct {
	Vocab, Context, Layers, Heads, Width int

	Torch  bool // PyTorch was there and agreed
	Tokens []int32
	Logits [][]float64
}

func readReference(t *testing.T, path string) reference {
	t.Helper()
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	var r reference
	require.NoError(t, json.Unmarshal(b, &r))
	require.Len(t, r.Logits, len(r.Tokens))
	return r
}

// open makes the reference's model and loads its weights from file.
func (r reference) open(t *testing.T, file string) (*nn.GPT, []checkpoint.Weight) {
	t.Helper()
	dev, err := kernels.NewCPU(kernels.Config{Threads: 2})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, dev.Close()) })
	m, err := nn.NewGPT(dev, nn.GPTConfig{Vocab: r.Vocab, Context: r.Context, Layers: r.Layers, Heads: r.Heads, Width: r.Width})
	require.NoError(t, err)
	f, err := checkpoint.OpenGPT2(file)
	require.NoError(t, err)
	defer f.Close()
	weights, err := fit.GPT2Tensors(dev, m)
	require.NoError(t, err)
	require.NoError(t, f.Load(t.Context(), weights))
	return m, weights
}

// requireLogits compares the logits of every position.
func requireLogits(t *testing.T, r reference, m *nn.GPT) {
	t.Helper()
	got := make([]float32, r.Vocab)
	for i, want := range r.Logits {
		require.NoError(t, m.Logits(got, r.Tokens[:i+1]))
		for j := range want {
			require.InDelta(t, want[j], got[j], 1e-4, "position %d, token %d", i, j)
		}
	}
}

func TestLogitsAgree(t *testing.T) {
	const file = "testdata/reference.safetensors"
	r := readReference(t, "testdata/reference.json")
	require.True(t, r.Torch, "PyTorch confirmed the committed values when they were made")
	m, weights := r.open(t, file)
	requireLogits(t, r, m)

	again := filepath.Join(t.TempDir(), "again.safetensors")
	require.NoError(t, checkpoint.WriteGPT2(t.Context(), again, "f32", weights))
	want, err := os.ReadFile(file)
	require.NoError(t, err)
	got, err := os.ReadFile(again)
	require.NoError(t, err)
	require.Equal(t, want, got, "the file of Python's safetensors, byte for byte")
}

// Fresh weights in every form that files have, where there is a Python with numpy (and, better, torch).
func TestLogitsAgreeWithPython(t *testing.T) {
	if testing.Short() {
		t.Skip("starts Python")
	}
	python := os.Getenv("FARANDOLE_PYTHON")
	if python == "" {
		python = "python3"
	}
	if out, err := exec.Command(python, "-c", "import numpy").CombinedOutput(); err != nil {
		t.Skipf("no Python with numpy; FARANDOLE_PYTHON may name one: %v %s", err, out)
	}
	withTorch := []string{"--dtype", "F32", "--seed", "2"}
	if exec.Command(python, "-c", "import importlib.util, sys; sys.exit(not importlib.util.find_spec('torch'))").Run() == nil {
		withTorch = append(withTorch, "--torch")
	}
	for name, c := range map[string]struct {
		dtype string
		args  []string
	}{
		"f32":                 {"f32", withTorch},
		"f32, a head":         {"f32", []string{"--dtype", "F32", "--seed", "3", "--head"}},
		"bf16, prefix, masks": {"bf16", []string{"--dtype", "BF16", "--seed", "4", "--prefix", "--masks", "--head"}},
		"f16, masks":          {"f16", []string{"--dtype", "F16", "--seed", "5", "--masks"}},
		"f16":                 {"f16", []string{"--dtype", "F16", "--seed", "6"}},
		"bf16":                {"bf16", []string{"--dtype", "BF16", "--seed", "7"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			file, expected, again := filepath.Join(dir, "x.safetensors"), filepath.Join(dir, "x.json"), filepath.Join(dir, "again")
			out, err := exec.Command(python, append([]string{"peers/reference.py", file, expected}, c.args...)...).CombinedOutput()
			require.NoError(t, err, "%s", out)
			r := readReference(t, expected)
			m, weights := r.open(t, file)
			requireLogits(t, r, m)

			require.NoError(t, checkpoint.WriteGPT2(t.Context(), again, c.dtype, weights))
			if !slices.Contains(c.args, "--head") && !slices.Contains(c.args, "--masks") { // a file that has nothing but weights comes back byte for byte
				want, err := os.ReadFile(file)
				require.NoError(t, err)
				got, err := os.ReadFile(again)
				require.NoError(t, err)
				require.Equal(t, want, got)
			}
			_, other := r.open(t, again)
			for i, w := range weights {
				require.Equal(t, w.Data, other[i].Data, w.Name)
			}
		})
	}
}

// weightsFile trains a tiny model for a step and writes what farandole checkpoint export would.
func weightsFile(t *testing.T, path string) (weights []float32, file string) {
	t.Helper()
	dir, file := t.TempDir(), filepath.Join(t.TempDir(), "model.safetensors")
	weights, _, err := train(t, worker.Config{CheckpointDir: dir}, "--data", path, "--steps", "1")
	require.NoError(t, err)
	d, err := checkpoint.Open(dir, false)
	require.NoError(t, err)
	defer d.Close()
	latest, err := d.Latest()
	require.NoError(t, err)
	cfg, ok := nn.GPTOf(latest.Program)
	require.True(t, ok, latest.Program)
	var layout []checkpoint.Weight
	for _, p := range cfg.Layout() {
		layout = append(layout, checkpoint.Weight{Tensor: checkpoint.Tensor{Name: p.Name, Shape: p.Shape}, Transposed: p.Transposed})
	}
	require.NoError(t, d.ExportGPT2(t.Context(), latest.Step, file, "f32", layout))
	return weights, file
}

func TestInitBeginsWithTheFilesWeights(t *testing.T) {
	path := text(t)
	want, file := weightsFile(t, path)
	got, printed, err := train(t, worker.Config{}, "--data", path, "--steps", "0", "--init", file, "--seed", "9", "--sample")
	require.NoError(t, err)
	require.Equal(t, want, got)
	require.Contains(t, printed, "The ")

	// A shorter sequence keeps the file's context, so that what is written back has its shape.
	got, _, err = train(t, worker.Config{}, "--data", path, "--steps", "0", "--init", file, "--seq", "8")
	require.NoError(t, err)
	require.Equal(t, want, got)

	trained, _, err := train(t, worker.Config{}, "--data", path, "--steps", "2", "--init", file)
	require.NoError(t, err)
	require.NotEqual(t, want, trained)
	require.False(t, math.IsNaN(float64(trained[0])))
}

func TestInitMistakesAreUsageErrors(t *testing.T) {
	path := text(t)
	_, file := weightsFile(t, path)
	garbage := filepath.Join(t.TempDir(), "garbage")
	require.NoError(t, os.WriteFile(garbage, []byte("not safetensors"), 0o644))
	for name, c := range map[string]struct {
		args []string
		says string
	}{
		"no file":         {[]string{"--init", file + "x"}, "there is no file"},
		"directory":       {[]string{"--init", t.TempDir()}, "is a directory: name the safetensors file in it"},
		"garbage":         {[]string{"--init", garbage}, "no sound safetensors file"},
		"other model":     {[]string{"--init", file, "--model", "small"}, "use --model tiny"},
		"size of none":    {[]string{"--init", "testdata/reference.safetensors"}, "no --model is of its size"},
		"other tokenizer": {[]string{"--init", file, "--tokenizer", "gpt2"}, "choose another --tokenizer"},
		"long sequence":   {[]string{"--init", file, "--seq", "32"}, "choose --seq 16 or less"},
		"init and load":   {[]string{"--init", file, "--load", path}, "choose one"},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := train(t, worker.Config{}, append([]string{"--data", path}, c.args...)...)
			var usage *worker.UsageError
			require.ErrorAs(t, err, &usage)
			require.Contains(t, usage.Reason, c.says)
			require.NotContains(t, usage.Reason, "\n")
		})
	}
}
