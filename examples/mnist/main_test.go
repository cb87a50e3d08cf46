package main

import (
	"context"
	"io"
	"log/slog"
	"os"
	"regexp"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/farandole-ml/farandole/worker"
)

// train runs the program alone, with flags, and gives what it printed.
func train(t *testing.T, args ...string) (printed string, err error) {
	t.Helper()
	r, w, err := os.Pipe()
	require.NoError(t, err)
	kept := os.Stdout
	os.Stdout = w
	defer func() { os.Stdout = kept }()
	program := parse(args)
	err = worker.Run(context.Background(), worker.Config{Logger: slog.New(slog.DiscardHandler)}, program)
	require.NoError(t, w.Close())
	out, readErr := io.ReadAll(r)
	require.NoError(t, readErr)
	if program.Dev != nil {
		require.NoError(t, program.Dev.Close())
	}
	return string(out), err
}

func TestLearnsDigits(t *testing.T) {
	one, err := train(t, "--steps", "100", "--model", "mlp-tiny", "--lr", "1e-2", "--threads", "1")
	require.NoError(t, err)
	found := regexp.MustCompile(`^test accuracy (\d+\.\d\d) %\n`).FindStringSubmatch(one)
	require.NotNil(t, found, one)
	accuracy, err := strconv.ParseFloat(found[1], 64)
	require.NoError(t, err)
	require.Greater(t, accuracy, 90.0)

	if testing.Short() {
		return
	}
	three, err := train(t, "--steps", "100", "--model", "mlp-tiny", "--lr", "1e-2", "--threads", "3")
	require.NoError(t, err)
	require.Equal(t, one, three, "accuracy and hash of the weights")
}

func TestMistakesAreUsageErrors(t *testing.T) {
	for name, c := range map[string]struct {
		args []string
		says string
	}{
		"unknown flag": {[]string{"--seq", "3"}, "seq"},
		"argument":     {[]string{"300"}, "no flag"},
		"model":        {[]string{"--model", "tiny"}, "mlp-wide"},
		"steps":        {[]string{"--steps", "-1"}, "negative"},
		"rate":         {[]string{"--lr", "-1"}, "--lr"},
		"precision":    {[]string{"--precision", "fp8"}, "not known"},
		"products":     {[]string{"--products", "mkl"}, "not known"},
		"no library":   {[]string{"--device", "cpu", "--precision", "bf16", "--products", "cublaslt"}, "--products cublaslt: a CPU has only products own"},
		"cuda":         {[]string{"--device", "cuda"}, "was built without GPUs"},
		"device":       {[]string{"--device", "tpu"}, "not known"},
		"no data":      {[]string{"--data", t.TempDir()}, "--data"},
		"large batch":  {[]string{"--batch", "60001"}, "60000 samples"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := train(t, c.args...)
			var usage *worker.UsageError
			require.ErrorAs(t, err, &usage)
			require.Contains(t, usage.Reason, c.says)
			require.NotContains(t, usage.Reason, "\n")
		})
	}
}
