package collective_test

import (
	"bytes"
	"log/slog"
	"os"
	"strings"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"

	"github.com/farandole-ml/farandole/collective"
	"github.com/farandole-ml/farandole/collective/transport/inproc"
)

// small is a transport with room for one registered buffer.
type small struct {
	collective.Transport
	given []byte
}

func (s *small) Alloc(n int) ([]byte, error) {
	if s.given != nil {
		return nil, collective.ErrNoMemory
	}
	s.given = make([]byte, n)
	return s.given, nil
}

func (s *small) Free(b []byte) error {
	s.given = nil
	return nil
}

func TestAllocFallsBack(t *testing.T) {
	var log bytes.Buffer
	tr := &small{Transport: inproc.New(1)[0]}
	g := collective.NewTuned(tr, collective.Tuning{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	defer g.Close()
	registered, err := g.Alloc(100)
	require.NoError(t, err)
	require.Same(t, &tr.given[0], &registered[0])
	require.Empty(t, log.String())
	require.True(t, g.Registers())
	for range 3 {
		b, err := g.Alloc(5000)
		require.NoError(t, err)
		require.Equal(t, make([]byte, 5000), b)
		require.Zero(t, uintptr(unsafe.Pointer(&b[0]))%uintptr(os.Getpagesize()))
		require.NoError(t, g.Free(b))
		require.False(t, g.Registers())
	}
	require.Equal(t, 1, strings.Count(log.String(), "level=WARN"))
	require.NotNil(t, tr.given, "ordinary memory is none of the transport's business")
	require.NoError(t, g.Free(registered))
	require.Nil(t, tr.given)
	_, err = g.Alloc(-1)
	require.ErrorIs(t, err, collective.ErrMisuse)
	empty, err := g.Alloc(0)
	require.NoError(t, err)
	require.Empty(t, empty)
	require.NoError(t, g.Free(empty))
}
