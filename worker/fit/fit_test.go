package fit

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/farandole-ml/farandole/worker"
	"github.com/farandole-ml/farandole/worker/data"
)

// session is one that trains alone.
func session(t *testing.T) *worker.Session {
	s, err := worker.Join(t.Context(), worker.Config{Logger: slog.New(slog.DiscardHandler), Threads: 1, Device: "cpu"})
	require.NoError(t, err)
	t.Cleanup(func() { s.Close() })
	return s
}

func parsed(args []string, check func() error) *Program {
	p := &Program{Options: Options{Steps: 10, Shards: 3, Batch: 8, Size: "a", Seed: 1, LR: 0.1}}
	p.Parse(p.Flags("test", []string{"a", "b"}, "things", "a folder"), args, check)
	return p
}

func TestMistakesComeOutOfOpenInOrder(t *testing.T) {
	own := errors.New("--own: no")
	for name, c := range map[string]struct {
		args  []string
		check func() error
		says  string
	}{
		"a flag before the program's own check": {[]string{"--lr", "-1"}, func() error { return own }, "--lr"},
		"the program's own":                     {nil, func() error { return own }, "--own"},
		"no flag":                               {[]string{"run"}, func() error { return own }, "see test --help"},
		"device":                                {[]string{"--device", "tpu"}, nil, "--device"},
	} {
		t.Run(name, func(t *testing.T) {
			var usage *worker.UsageError
			require.ErrorAs(t, parsed(c.args, c.check).Open(session(t)), &usage)
			require.Contains(t, usage.Reason, c.says)
		})
	}
}

func TestOpenAsksTheJob(t *testing.T) {
	p := parsed(nil, nil)
	require.NoError(t, p.Open(session(t)))
	defer p.Dev.Close()
	require.Equal(t, "cpu", p.Device)
	require.Equal(t, 1, p.Threads)
}

func TestSamples(t *testing.T) {
	p := parsed(nil, nil)
	require.NoError(t, p.Samples(func() int64 { return 100 }, nil))
	require.Equal(t, data.Order{Seed: 1, Len: 100, PerStep: 8}, p.Order)
	require.Equal(t, 3, p.LargestShard(), "8 samples in 3 shards")

	var usage *worker.UsageError
	require.ErrorAs(t, p.Samples(func() int64 { return 7 }, nil), &usage, "fewer than a global batch")
	require.ErrorAs(t, p.Samples(nil, &data.InputError{Reason: "no file"}), &usage)
	require.Equal(t, "no file", usage.Reason)
	require.ErrorIs(t, p.Samples(nil, io.ErrUnexpectedEOF), io.ErrUnexpectedEOF, "not the user's to mend")
	require.ErrorIs(t, p.Samples(nil, context.Canceled), context.Canceled)
}
