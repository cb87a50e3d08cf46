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
	mem []byte
	// Guarded by the arena's mu.
	id       uint32
	file     *os.File
	isolated bool // a part of mem is not file's any more
}

// create makes a buffer.
func (a *arena) create(name string, bytes int) (buffer, error) {
	a.mu.Lock()
	n := len(a.buffers)
	a.mu.Unlock()
	if n >= maxBuffers {
		return buffer{}, fmt.Errorf("%w: %d buffers are registered already: allocate fewer, larger ones", errNoMemory, n)
	}
	file, mem, err := createMemory(name, roundUp(max(bytes, 1)))
	if err != nil {
		return buffer{}, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.last++
	b := &buffer{id: a.last, mem: mem, file: file}
	a.buffers = append(a.buffers, b)
	return *b, nil
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
		t.unregister(b.id)
	}
	unmapMemory(b.mem)
	return b.file.Close()
}

// isolate takes the pages of out, which is registered memory, away from peers that may still write there although the operation has
// failed here: a peer that was stopped and goes on when this rank has long begun anew. What out holds is lost, which it is after a
// failure. Nobody may write to the same pages meanwhile.
func (a *arena) isolate(out []byte) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	at := uintptr(unsafe.Pointer(unsafe.SliceData(out)))
	for _, b := range a.buffers {
		base := uintptr(unsafe.Pointer(unsafe.SliceData(b.mem)))
		if at < base || at >= base+uintptr(len(b.mem)) {
			continue
		}
		page := os.Getpagesize()
		lo := int(at - base)
		hi := (lo + len(out) + page - 1) / page * page
		first := lo / page * page
		head, tail := slices.Clone(b.mem[first:lo]), slices.Clone(b.mem[lo+len(out):hi])
		if err := mapPrivateOver(b.mem[first:hi]); err != nil {
			return err
		}
		copy(b.mem[first:], head)
		copy(b.mem[lo+len(out):], tail)
		b.isolated = true
	}
	return nil
}

// rejoin makes all of b one piece of shared memory again, with another number.
func (a *arena) rejoin(b *buffer, name string) error {
	if !b.isolated {
		return nil
	}
	file, mem, err := createMemory(name, len(b.mem))
	if err != nil {
		return err
	}
	copy(mem, b.mem)
	unmapMemory(mem)
	if err := mapOver(b.mem, int(file.Fd())); err != nil {
		file.Close()
		return err
	}
	b.file.Close()
	a.last++
	b.file, b.id, b.isolated = file, a.last, false
	return nil
}

// join makes t know all buffers, and later ones. Those that cannot be shared are not among them.
func (a *arena) join(t *member) []buffer {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.groups = append(a.groups, t)
	var shared []buffer
	for _, b := range a.buffers {
		if err := a.rejoin(b, t.memoryName("buffer")); err != nil {
			t.log.Warn("registered memory cannot be shared again: it is copied from now on", "bytes", len(b.mem), "err", err)
			continue
		}
		shared = append(shared, *b)
	}
	return shared
}

// forget is the inverse of join.
func (a *arena) forget(t *member) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.groups = slices.DeleteFunc(a.groups, func(g *member) bool { return g == t })
}
