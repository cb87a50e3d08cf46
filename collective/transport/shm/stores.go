//go:build linux

package shm

import (
	"time"

	"github.com/farandole-ml/farandole/kernels"
)

// stores is how this rank writes to memory that a peer, or several, have read and will read again. An ordinary store to such a
// line waits until the readers have given it up. Where they share a cache with this processor that takes little, and the line is near
// when they read it; where they do not, it takes longer than the way through memory, to which stores past the caches go at once. Which it
// is changes when processes move, and nothing tells but the clock.
type stores struct {
	slow  int // ordinary copies in succession that were slow, up to slowRuns
	since int // copies past the caches since the last ordinary one
}

const (
	// pacedBytes is the length from which on a copy is timed.
	pacedBytes = 4 << 10
	// slowBytes is what a fast ordinary copy moves in a microsecond, at least. Between processors that share a cache it is
	// some 7 KB where this was measured, on one processor 35, and between those that share none 2.
	slowBytes = 3 << 10
	// slowRuns is after how many slow copies stores go past the caches: one may be slow because the process was interrupted.
	slowRuns = 2
	// againAfter is after how many copies past the caches an ordinary one is tried.
	againAfter = 64
)

// copy copies b to the beginning of dst.
func (s *stores) copy(dst, b []byte) {
	if len(b) < pacedBytes {
		copy(dst, b)
		return
	}
	if s.slow == slowRuns && s.since < againAfter {
		s.since++
		kernels.CopyPast(dst[:len(b)], b)
		return
	}
	s.since = 0
	start := time.Now()
	copy(dst, b)
	s.note(len(b), time.Since(start))
}

// note learns from an ordinary copy.
func (s *stores) note(bytes int, took time.Duration) {
	if int64(bytes)*int64(time.Microsecond) >= slowBytes*int64(took) {
		s.slow = 0
	} else {
		s.slow = min(s.slow+1, slowRuns)
	}
}
