//go:build linux

package shm

import (
	"bytes"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestStoresLearnFromTheClock(t *testing.T) {
	const n = 64 << 10
	fast, slow := n*time.Microsecond/slowBytes, n*time.Microsecond/slowBytes+time.Microsecond
	src := bytes.Repeat([]byte{1, 2, 3}, n/3)
	var s stores
	past := func() bool { // whether a copy is not timed
		before := s.since
		dst := make([]byte, len(src)+1)
		s.copy(dst, src)
		require.Equal(t, append(bytes.Clone(src), 0), dst)
		return s.since > before
	}
	require.False(t, past())
	s = stores{}
	s.note(n, slow)
	s.note(n, fast)
	s.note(n, slow)
	require.False(t, past(), "slow now and then is an interruption")
	s = stores{}
	for range 5 {
		s.note(n, slow)
	}
	for i := range againAfter {
		require.True(t, past(), i)
	}
	require.False(t, past(), "an ordinary one, to see whether it is still slow")
	s = stores{slow: slowRuns}
	s.note(n, fast)
	require.False(t, past(), "one that is fast is enough")

	s = stores{slow: slowRuns}
	s.copy(make([]byte, pacedBytes), make([]byte, pacedBytes-1))
	require.Zero(t, s.since, "short ones are ordinary")
}
