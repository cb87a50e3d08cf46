package grpc

import (
	"sync"

	"google.golang.org/grpc/mem"
)

const (
	// slabBytes is the most that an HTTP/2 frame of gRPC's carries.
	slabBytes = 16 << 10
	// maxSlabs bounds the idle buffers of a process.
	maxSlabs = 4096
)

// slabs is where gRPC puts what it reads. gRPC's own pool clears each buffer before use and spreads them over the
// processors; this one gives back the one that was used last, which the cache still has.
type slabs struct {
	mu   sync.Mutex
	idle []*[]byte
}

var slabPool slabs

// Get implements mem.BufferPool.
func (s *slabs) Get(n int) *[]byte {
	if n > slabBytes {
		return mem.DefaultBufferPool().Get(n)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if last := len(s.idle) - 1; last >= 0 {
		b := s.idle[last]
		s.idle = s.idle[:last]
		*b = (*b)[:n]
		return b
	}
	b := make([]byte, n, slabBytes)
	return &b
}

// Put implements mem.BufferPool.
func (s *slabs) Put(b *[]byte) {
	if cap(*b) != slabBytes {
		mem.DefaultBufferPool().Put(b)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.idle) < maxSlabs {
		s.idle = append(s.idle, b)
	}
}
