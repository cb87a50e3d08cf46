//go:build linux

package shm

import (
	"fmt"
	"os"
	"slices"
	"sync"
	"unsafe"

	"github.com/farandole-ml/farandole/collective"
)

const (
	// maxBufferBytes bounds one registered buffer.
	maxBufferBytes = 1 << 40
	// maxBuffers bounds the registered buffers of a rank: each is a descriptor and a mapping on every rank.
	maxBuffers = 1024
)

// errNoMemory says that the system has no more of what shared memory needs.
var errNoMemory = collective.ErrNoMemory

// arena is a process's registered memory. It outlives groups: the buffers of a rank are announced to every group that
// it joins, so that memory is registered once in a job.
type arena struct {
	mu      sync.Mutex
	last    uint32 // the last buffer's number
	buffers []*buffer
	groups  []*member // standing
}

// buffer is one piece of registered memory.
type buffer struct {
	id   uint32
	mem  []byte
	size int // what was asked for
	file *os.File
}

// create makes a buffer.
func (a *arena) create(name string, bytes int) (*buffer, error) {
	a.mu.Lock()
	n := len(a.buffers)
	a.mu.Unlock()
	if n >= maxBuffers {
		return nil, fmt.Errorf("%w: %d buffers are registered already: allocate fewer, larger ones", errNoMemory, n)
	}
	file, mem, err := createMemory(name, roundUp(max(bytes, 1)))
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.last++
	b := &buffer{id: a.last, mem: mem, size: bytes, file: file}
	a.buffers = append(a.buffers, b)
	return b, nil
}

// destroy takes back the buffer that begins where mem does.
func (a *arena) destroy(mem []byte) error {
	a.mu.Lock()
	i := slices.IndexFunc(a.buffers, func(b *buffer) bool { return unsafe.SliceData(b.mem) == unsafe.SliceData(mem) })
	if i < 0 {
		a.mu.Unlock()
		return fmt.Errorf("shm: free %d bytes: %w", len(mem), errNotRegistered)
	}
	b := a.buffers[i]
	a.buffers = slices.Delete(a.buffers, i, i+1)
	groups := slices.Clone(a.groups)
	a.mu.Unlock()
	for _, t := range groups {
		t.unregister(b)
	}
	unmapMemory(b.mem)
	return b.file.Close()
}

// join makes t know all buffers, and further ones.
func (a *arena) join(t *member) []*buffer {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.groups = append(a.groups, t)
	return slices.Clone(a.buffers)
}

// forget is the inverse of join.
func (a *arena) forget(t *member) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.groups = slices.DeleteFunc(a.groups, func(g *member) bool { return g == t })
}
