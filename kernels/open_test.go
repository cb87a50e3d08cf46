package kernels

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestOpen(t *testing.T) {
	for _, name := range []string{"", "auto", "cpu"} {
		d, err := Open(name, Config{Threads: 1})
		require.NoError(t, err)
		require.Equal(t, ClassF32, d.Class())
		require.NoError(t, d.Close())
	}
	_, err := Open("cuda", Config{})
	require.EqualError(t, err, "device cuda: this program was built without GPUs: build it with -tags cuda (make build-cuda does), or use cpu")
	_, err = Open("tpu", Config{})
	require.EqualError(t, err, `device "tpu" is not known: use auto, cpu or cuda`)
}

// pretended GPUs are reference devices.
type pretended struct {
	found, opens error
	gpu          Device
	rank         int
	precision    string
}

func (p *pretended) Find(Config) (string, error) { return "NVML finds 2 GPUs", p.found }

func (p *pretended) Open(cfg Config) (Device, error) {
	p.rank, p.precision = cfg.LocalRank, cfg.Precision
	return p.gpu, p.opens
}

func TestOpenGPUs(t *testing.T) {
	p := &pretended{gpu: NewReference()}
	RegisterGPUs(p)
	defer RegisterGPUs(nil)
	var log bytes.Buffer
	cfg := Config{Threads: 1, LocalRank: 3, Logger: slog.New(slog.NewTextHandler(&log, nil))}

	d, err := Open("cuda", cfg)
	require.NoError(t, err)
	require.Same(t, p.gpu, d)
	require.Empty(t, log.String(), "the user chose")

	d, err = Open("auto", cfg)
	require.NoError(t, err)
	require.Same(t, p.gpu, d)
	require.Equal(t, 3, p.rank)
	require.Contains(t, log.String(), `chosen="reference go" because="NVML finds 2 GPUs"`)

	cfg.Precision = ClassBF16
	d, err = Open("auto", cfg)
	require.NoError(t, err)
	require.Same(t, p.gpu, d, "a GPU has that too")
	require.Equal(t, ClassBF16, p.precision)
	cfg.Precision = ""

	log.Reset()
	p.found = fmt.Errorf("%w: no driver", ErrNoGPU)
	d, err = Open("auto", cfg)
	require.NoError(t, err)
	require.NotSame(t, p.gpu, d)
	require.Contains(t, log.String(), `because="no GPU: no driver"`)

	p.found, p.opens = nil, errors.New("busy")
	_, err = Open("auto", cfg)
	require.EqualError(t, err, "device auto: NVML finds 2 GPUs, but none opens: busy", "a GPU that fails is not passed over in silence")
	_, err = Open("cuda", cfg)
	require.EqualError(t, err, "device cuda: busy")
}
