//go:build linux

package shm

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/farandole-ml/farandole/collective"
)

var errNotRegistered = errors.New("not what Alloc gave, or freed already")

// registry is what a group knows of registered memory.
type registry struct {
	own atomic.Pointer[[]*registration] // replaced as a whole, under changing

	changing sync.Mutex // guards the registrations' waiting
	// busy is held while an operation runs, so that no peer's memory is unmapped under it; doomed is what waits for that.
	busy      sync.Mutex
	doomed    [][]byte // guarded by dooming
	dooming   sync.Mutex
	hasDoomed atomic.Bool
}

// registration is a buffer of this rank in one group. Operations use it in place once all ranks have mapped it.
type registration struct {
	id      uint32
	lo, hi  uintptr
	mapped  atomic.Bool   // by all
	waiting []bool        // by rank: has not answered yet
	refused int           // a rank that has not mapped it, plus one
	untold  atomic.Bool   // a rank could not be told of it
	settled chan struct{} // closed when all have answered
}

// foreign is a peer's registered memory, mapped here.
type foreign struct {
	id  uint32
	mem []byte
}

// Alloc implements collective.Allocator. The memory stays registered in the groups that are formed later by the
// same Listener, and stays readable when the group has ended, until it is freed.
func (t *member) Alloc(bytes int) ([]byte, error) {
	if !t.enter() {
		return nil, t.cause()
	}
	defer t.leave()
	if bytes < 0 || bytes > maxBufferBytes {
		return nil, fmt.Errorf("shm: a buffer of %d bytes: %w", bytes, errNoMemory)
	}
	b, err := t.arena.create(t.memoryName("buffer"), bytes)
	if err != nil {
		return nil, fmt.Errorf("shm: a buffer of %d bytes: %w", bytes, err)
	}
	r := t.register(b)
	select {
	case <-r.settled:
	case <-t.over:
		_ = t.arena.destroy(b.mem)
		return nil, t.cause()
	}
	if !r.mapped.Load() {
		_ = t.arena.destroy(b.mem)
		if gone := t.peers[r.refused-1].gone.Load(); gone != nil {
			return nil, fmt.Errorf("shm: a buffer of %d bytes: %w", bytes, gone.err)
		}
		if r.untold.Load() {
			return nil, fmt.Errorf("shm: a buffer of %d bytes: %w", bytes, t.blame(r.refused-1, collective.ErrPeerLost))
		}
		return nil, fmt.Errorf("shm: a buffer of %d bytes: rank %d cannot map it: %w", bytes, t.names.of(r.refused-1), errNoMemory)
	}
	return b.mem[:bytes:bytes], nil
}

// Free implements collective.Allocator. It may be called after the group has ended.
func (t *member) Free(b []byte) error { return t.arena.destroy(b) }

// register tells the peers of b.
func (t *member) register(b buffer) *registration {
	lo := uintptr(unsafe.Pointer(unsafe.SliceData(b.mem)))
	r := &registration{id: b.id, lo: lo, hi: lo + uintptr(len(b.mem)), waiting: make([]bool, len(t.peers)), settled: make(chan struct{})}
	for i, p := range t.peers {
		r.waiting[i] = p != nil
	}
	t.changing.Lock()
	mine := append(slices.Clone(*t.registry.own.Load()), r)
	t.registry.own.Store(&mine)
	r.settle()
	t.changing.Unlock()
	for _, p := range t.peers {
		if p == nil {
			continue
		}
		err := p.link.send(note{kind: noteBuffer, buffer: b.id, size: uint64(len(b.mem))}, b.file)
		if err != nil || p.gone.Load() != nil {
			r.untold.Store(true)
			t.answer(p.rank, b.id, false)
		}
	}
	return r
}

// settle looks whether all have answered. The caller holds changing.
func (r *registration) settle() {
	if slices.Contains(r.waiting, true) {
		return
	}
	r.mapped.Store(r.refused == 0)
	close(r.settled)
}

// unregister is the inverse of register.
func (t *member) unregister(id uint32) {
	t.changing.Lock()
	mine := slices.DeleteFunc(slices.Clone(*t.registry.own.Load()), func(r *registration) bool { return r.id == id })
	t.registry.own.Store(&mine)
	t.changing.Unlock()
	for _, p := range t.peers {
		if p != nil && p.gone.Load() == nil {
			_ = p.link.send(note{kind: noteFreed, buffer: id}, nil) // a peer that cannot be told has failed otherwise
		}
	}
}

// answer notes that rank has mapped this rank's buffer id, or cannot.
func (t *member) answer(rank int, id uint32, ok bool) {
	t.changing.Lock()
	defer t.changing.Unlock()
	for _, r := range *t.registry.own.Load() {
		if r.id != id || !r.waiting[rank] {
			continue
		}
		r.waiting[rank] = false
		if !ok {
			r.refused = rank + 1
		}
		r.settle()
	}
}

// answerAll ends the waits for rank, which has gone.
func (t *member) answerAll(rank int) {
	for _, r := range *t.registry.own.Load() {
		t.answer(rank, r.id, false)
	}
}

// locate gives b's place in this rank's registered memory.
func (t *member) locate(b []byte) (place, bool) {
	at := uintptr(unsafe.Pointer(unsafe.SliceData(b)))
	for _, r := range *t.registry.own.Load() {
		if at >= r.lo && at < r.hi && uintptr(len(b)) <= r.hi-at && r.mapped.Load() {
			return place{offset: uint64(at - r.lo), buffer: r.id}, true
		}
	}
	return place{}, false
}

// at is the n bytes at a place that p published, nil when there are none such.
func (p *peer) at(where place, n int) []byte {
	for _, f := range *p.buffers.Load() {
		if f.id == where.buffer && where.offset <= uint64(len(f.mem)) && uint64(n) <= uint64(len(f.mem))-where.offset {
			return f.mem[where.offset : where.offset+uint64(n)]
		}
	}
	return nil
}

// adopt maps a buffer of p.
func (t *member) adopt(p *peer, n note) error {
	buffers := *p.buffers.Load()
	if len(buffers) >= maxBuffers || slices.ContainsFunc(buffers, func(f foreign) bool { return f.id == n.buffer }) || n.buffer == 0 {
		return errNote
	}
	answer := note{kind: noteMapped, buffer: n.buffer}
	mem, err := adoptMemory(n.file, int(n.size))
	if err == nil {
		_ = unix.Madvise(mem, unix.MADV_POPULATE_WRITE) // the pages exist: this saves a fault at the first touch of each
		buffers = append(slices.Clone(buffers), foreign{n.buffer, mem})
		p.buffers.Store(&buffers)
		answer.flags = flagDone
	} else {
		t.log.Warn("cannot map registered memory of a peer", "rank", t.names.of(t.id.Rank), "peer", t.names.of(p.rank), "bytes", n.size, "err", err)
	}
	return p.link.send(answer, nil)
}

// drop unmaps a buffer of p, at once or when the running operation is over.
func (t *member) drop(p *peer, id uint32) error {
	buffers := *p.buffers.Load()
	i := slices.IndexFunc(buffers, func(f foreign) bool { return f.id == id })
	if i < 0 {
		return nil // it could not be mapped
	}
	t.dooming.Lock()
	t.doomed = append(t.doomed, buffers[i].mem)
	t.hasDoomed.Store(true)
	t.dooming.Unlock()
	buffers = slices.Delete(slices.Clone(buffers), i, i+1)
	p.buffers.Store(&buffers)
	if t.busy.TryLock() {
		t.sweep()
		t.busy.Unlock()
	}
	return nil
}

// sweep unmaps what is doomed. The caller holds busy, or nobody else is left.
func (t *member) sweep() {
	t.dooming.Lock()
	defer t.dooming.Unlock()
	for _, mem := range t.doomed {
		unmapMemory(mem)
	}
	t.doomed = nil
	t.hasDoomed.Store(false)
}

// idle ends an operation: busy is given up, and what was doomed meanwhile unmapped.
func (t *member) idle() {
	t.busy.Unlock()
	if t.hasDoomed.Load() && t.busy.TryLock() {
		t.sweep()
		t.busy.Unlock()
	}
}
