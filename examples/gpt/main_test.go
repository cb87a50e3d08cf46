package main

import (
	"context"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/farandole-ml/farandole/worker"
)

// text is a file with enough of a simple text.
func text(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "text")
	require.NoError(t, os.WriteFile(path, []byte(strings.Repeat("round and round they go. ", 100)), 0o644))
	return path
}

// train runs the program alone, with flags, and gives the weights and what it printed.
func train(t *testing.T, cfg worker.Config, args ...string) (weights []float32, printed string, err error) {
	t.Helper()
	r, w, err := os.Pipe()
	require.NoError(t, err)
	kept := os.Stdout
	os.Stdout = w
	defer func() { os.Stdout = kept }()
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	program := parse(append([]string{"--model", "tiny", "--seq", "16"}, args...))
	err = worker.Run(context.Background(), cfg, program)
	require.NoError(t, w.Close())
	out, readErr := io.ReadAll(r)
	require.NoError(t, readErr)
	if program.model != nil {
		for _, p := range program.model.Params() {
			weights = append(weights, program.Dev.Host(p.Value)...)
		}
		require.NoError(t, program.Dev.Close())
	}
	return weights, string(out), err
}

func TestLearnsAndSaysSo(t *testing.T) {
	_, printed, err := train(t, worker.Config{}, "--data", text(t), "--steps", "150", "--lr", "1e-2", "--warmup", "10", "--sample", "--prompt", "round and")
	require.NoError(t, err)
	require.True(t, strings.HasPrefix(printed, "round and round they go."), printed)
	require.Contains(t, printed, "weights_sha256")
}

func TestThreadsDoNotChangeTheWeights(t *testing.T) {
	path := text(t)
	one, _, err := train(t, worker.Config{}, "--data", path, "--steps", "3", "--shards", "3", "--threads", "1")
	require.NoError(t, err)
	three, _, err := train(t, worker.Config{}, "--data", path, "--steps", "3", "--shards", "3", "--threads", "3")
	require.NoError(t, err)
	require.Equal(t, one, three)
	recomputed, _, err := train(t, worker.Config{}, "--data", path, "--steps", "3", "--shards", "3", "--recompute")
	require.NoError(t, err)
	require.Equal(t, one, recomputed)
	other, _, err := train(t, worker.Config{}, "--data", path, "--steps", "3", "--shards", "3", "--seed", "2")
	require.NoError(t, err)
	require.NotEqual(t, one, other)
}

func TestLoadPrintsFromACheckpoint(t *testing.T) {
	path, dir := text(t), t.TempDir()
	want, _, err := train(t, worker.Config{CheckpointDir: dir}, "--data", path, "--steps", "3")
	require.NoError(t, err)
	got, printed, err := train(t, worker.Config{}, "--data", path, "--steps", "0", "--load", dir, "--sample")
	require.NoError(t, err)
	require.Equal(t, want, got)
	require.True(t, strings.HasPrefix(printed, "The "))

	var usage *worker.UsageError
	_, _, err = train(t, worker.Config{}, "--data", path, "--steps", "0", "--load", dir, "--seq", "8")
	require.ErrorAs(t, err, &usage, "another context is another program")
	_, _, err = train(t, worker.Config{}, "--data", path, "--load", t.TempDir())
	require.ErrorAs(t, err, &usage)
	require.Contains(t, usage.Reason, "it has no usable checkpoint: see `farandole checkpoint verify")

	// A damaged one is named before the one before it is taken.
	_, _, err = train(t, worker.Config{CheckpointDir: dir}, "--data", path, "--steps", "4")
	require.NoError(t, err)
	require.NoError(t, os.Truncate(filepath.Join(dir, "step-00000004", "part-0-of-1.safetensors"), 100))
	log := &strings.Builder{}
	got, _, err = train(t, worker.Config{Logger: slog.New(slog.NewTextHandler(log, nil))}, "--data", path, "--steps", "0", "--load", dir)
	require.NoError(t, err)
	require.Equal(t, want, got)
	require.Contains(t, log.String(), "step-00000004/part-0-of-1.safetensors is corrupt")
}

func TestBF16IsAClassOfItsOwn(t *testing.T) {
	path, dir := text(t), t.TempDir()
	bf16 := []string{"--data", path, "--steps", "4", "--shards", "3", "--precision", "bf16"}
	one, _, err := train(t, worker.Config{}, append(bf16, "--threads", "1")...)
	require.NoError(t, err)
	three, _, err := train(t, worker.Config{CheckpointDir: dir}, append(bf16, "--threads", "3")...)
	require.NoError(t, err)
	require.Equal(t, one, three)
	f32, _, err := train(t, worker.Config{}, "--data", path, "--steps", "4", "--shards", "3")
	require.NoError(t, err)
	require.NotEqual(t, f32, one)

	again, _, err := train(t, worker.Config{CheckpointDir: dir}, bf16...)
	require.NoError(t, err)
	require.Equal(t, one, again)
	var usage *worker.UsageError
	_, _, err = train(t, worker.Config{CheckpointDir: dir}, "--data", path, "--steps", "4", "--shards", "3")
	require.ErrorAs(t, err, &usage)
	require.Contains(t, usage.Reason, "numerics class bf16")
	require.Contains(t, usage.Reason, "numerics class f32")
	require.NotContains(t, usage.Reason, "\n")
}

func TestMistakesAreUsageErrors(t *testing.T) {
	path := text(t)
	for name, c := range map[string]struct {
		args []string
		says string
	}{
		"unknown flag":  {[]string{"--stepz", "3"}, "-stepz: see gpt --help"},
		"no number":     {[]string{"--steps", "many"}, "many"},
		"argument":      {[]string{"300"}, "no flag"},
		"model":         {[]string{"--model", "gpt9"}, "gpt2-124m"},
		"mlp":           {[]string{"--model", "mlp"}, "no model"},
		"long sequence": {[]string{"--seq", "65"}, "1 to 64"},
		"no sequence":   {[]string{"--seq", "0"}, "1 to 64"},
		"steps":         {[]string{"--steps", "-1"}, "negative"},
		"rate":          {[]string{"--lr", "0"}, "--lr"},
		"rate NaN":      {[]string{"--lr", "NaN"}, "--lr"},
		"rate Inf":      {[]string{"--lr", "inf"}, "--lr +Inf: the learning rate must be positive and finite"},
		"threads":       {[]string{"--threads", "100000"}, "--threads 100000: use 0 for all processors, or a number up to 4096"},
		"no directory":  {[]string{"--load", path + "none"}, "there is no such directory: name one that a job had as --checkpoint-dir"},
		"a file":        {[]string{"--load", path}, "it is no directory: name the one that has the step-… directories in it"},
		"precision":     {[]string{"--precision", "fp8"}, "not known"},
		"products":      {[]string{"--products", "mkl"}, "not known"},
		"no library":    {[]string{"--device", "cpu", "--precision", "bf16", "--products", "cublaslt"}, "--products cublaslt: a CPU has only products own"},
		"cuda":          {[]string{"--device", "cuda"}, "was built without GPUs"},
		"device":        {[]string{"--device", "tpu"}, "not known"},
		"tokenizer":     {[]string{"--tokenizer", "words"}, "choose"},
		"no data":       {[]string{"--data", path + "none"}, "--data"},
		"shards":        {[]string{"--shards", "9"}, "9 shards"},
		"no shards":     {[]string{"--shards", "0"}, "0 shards"},
		"batch":         {[]string{"--batch", "-8"}, "shards"},
		"small data":    {[]string{"--batch", "1000"}, "fewer than one global batch"},
		"prompt":        {[]string{"--sample", "--prompt", ""}, "--prompt"},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := train(t, worker.Config{}, append([]string{"--data", path}, c.args...)...)
			var usage *worker.UsageError
			require.ErrorAs(t, err, &usage)
			require.Contains(t, usage.Reason, c.says)
			require.NotContains(t, usage.Reason, "\n")
			require.Equal(t, 2, worker.ExitCode(err))
		})
	}
}
