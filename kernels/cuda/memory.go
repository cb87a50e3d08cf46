//go:build cuda

package cuda

import (
	"fmt"
	"math/bits"
	"runtime"
	"slices"
	"sync"
	"time"

	"gorgonia.org/cu"

	"github.com/farandole-ml/farandole/kernels"
)

// memory is a piece of the GPU's memory. The pool has it back when neither buffer nor slice refers to it any more.
type memory struct {
	device *device
	at     cu.DevicePtr
}

// buffer is a kernels.Buffer.
type buffer struct {
	mem *memory
	off int // values
	n   int
}

func (b *buffer) Len() int { return b.n }

func (b *buffer) Slice(off, n int) kernels.Buffer {
	kernels.CheckSlice(off, n, b.n)
	return &buffer{b.mem, b.off + off, n}
}

// ints is a kernels.Ints. It keeps the values, since operations check them when they are enqueued.
type ints struct {
	mem    *memory
	off    int
	values []int32
}

func (x *ints) Len() int { return len(x.values) }

func (x *ints) Slice(off, n int) kernels.Ints {
	kernels.CheckSlice(off, n, len(x.values))
	return &ints{x.mem, x.off + off, x.values[off : off+n : off+n]}
}

func (m *memory) address(off int) uint64 { return uint64(m.at) + 4*uint64(off) }

// address is where a checked buffer is; 0 for nil.
func address(b kernels.Buffer) uint64 {
	if b == nil {
		return 0
	}
	x := b.(*buffer)
	return x.mem.address(x.off)
}

func addressOfInts(x kernels.Ints) uint64 {
	i := x.(*ints)
	return i.mem.address(i.off)
}

func (d *device) Alloc(n int) (kernels.Buffer, error) {
	m, err := d.allocate(n)
	if err != nil {
		return nil, err
	}
	return &buffer{m, 0, n}, nil
}

func (d *device) AllocInts(n int) (kernels.Ints, error) {
	m, err := d.allocate(n)
	if err != nil {
		return nil, err
	}
	return &ints{m, 0, make([]int32, n)}, nil
}

// Host is nil: the host cannot address the memory of a GPU.
func (d *device) Host(kernels.Buffer) []float32 { return nil }

// allocate gives zeroed memory for n values of four bytes.
func (d *device) allocate(n int) (*memory, error) {
	if err := kernels.CheckAlloc(n); err != nil {
		return nil, err
	}
	if d.err != nil {
		return nil, d.err
	}
	class := sizeClass(4 * int64(n))
	at, err := d.take(class)
	if err != nil {
		return nil, err
	}
	m := &memory{d, at}
	runtime.AddCleanup(m, func(r returned) { r.pool.give(r.class, r.at) }, returned{d.pool, class, at})
	if n > 0 {
		d.put("Alloc", fillZeros).set(uint64(at), number(n))
	}
	return m, nil
}

// returned is memory that nothing refers to any more.
type returned struct {
	pool  *pool
	class int64
	at    cu.DevicePtr
}

// pool keeps memory for the next who wants as much. Work of one stream is done in order, so that memory may have another
// use as soon as nobody will enqueue work on it for the first. A fetch, on the other stream, refers to its memory until it is done.
type pool struct {
	mu   sync.Mutex // guards all: memory comes back on the runtime's own goroutine
	free map[int64][]cu.DevicePtr
	all  map[cu.DevicePtr]int64 // all that the driver gave, with its size; nil after Close
}

func newPool() *pool {
	return &pool{free: map[int64][]cu.DevicePtr{}, all: map[cu.DevicePtr]int64{}}
}

// minClass is the least that is asked of the driver, in bytes: what it aligns memory to.
const minClass = 512

// sizeClass rounds up to eight sizes for each power of two.
func sizeClass(bytes int64) int64 {
	if bytes <= 8*minClass {
		return max(1, (bytes+minClass-1)/minClass) * minClass
	}
	step := int64(1) << (bits.Len64(uint64(bytes-1)) - 4)
	return (bytes + step - 1) / step * step
}

func (p *pool) give(class int64, at cu.DevicePtr) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.all != nil {
		p.free[class] = append(p.free[class], at)
	}
}

func (p *pool) take(class int64) (at cu.DevicePtr, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	list := p.free[class]
	if len(list) == 0 {
		return 0, false
	}
	at = list[len(list)-1]
	p.free[class] = list[:len(list)-1]
	return at, true
}

// idle takes all free memory out of the pool, to give it back to the driver.
func (p *pool) idle() (list []cu.DevicePtr) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, l := range p.free {
		list = append(list, l...)
	}
	clear(p.free)
	for _, at := range list {
		delete(p.all, at)
	}
	return list
}

// close takes everything out of the pool.
func (p *pool) close() (list []cu.DevicePtr) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for at := range p.all {
		list = append(list, at)
	}
	p.all, p.free = nil, nil
	slices.Sort(list)
	return list
}

// Limits of looking for memory that nothing refers to any more.
const (
	reclaimTries = 20
	reclaimPause = time.Millisecond
)

// take gives memory from the pool, else from the driver, else after returning to the driver all that is free.
func (d *device) take(class int64) (at cu.DevicePtr, err error) {
	if at, ok := d.pool.take(class); ok {
		return at, nil
	}
	at, err = d.ask(class)
	for try := 0; isCode(err, codeOutOfMemory) && try < reclaimTries; try++ {
		runtime.GC() // its finds come back a moment later
		time.Sleep(reclaimPause)
		if idle := d.pool.idle(); len(idle) > 0 {
			if err := d.Sync(); err != nil {
				return 0, err
			}
			if err := d.do(func() error { return release(idle) }); err != nil {
				return 0, d.fail("Alloc", err)
			}
			at, err = d.ask(class)
		}
	}
	switch {
	case err == nil:
		return at, nil
	case isCode(err, codeOutOfMemory):
		return 0, d.noMemory(class, err)
	}
	return 0, d.fail("Alloc", err)
}

// ask asks the driver.
func (d *device) ask(class int64) (at cu.DevicePtr, err error) {
	err = d.do(func() (err error) {
		at, err = cu.MemAlloc(class)
		return err
	})
	if err == nil {
		d.pool.mu.Lock()
		d.pool.all[at] = class
		d.pool.mu.Unlock()
	}
	return at, err
}

func release(list []cu.DevicePtr) error {
	for _, at := range list {
		if err := cu.MemFree(at); err != nil {
			return err
		}
	}
	return nil
}

// noMemory is the error of an allocation that found none. It does not stick: a caller may go on with less.
func (d *device) noMemory(bytes int64, err error) error {
	what := fmt.Errorf("%s wanted: %w", size(bytes), err)
	var free, total int64
	if d.do(func() (err error) { free, total, err = cu.MemInfo(); return err }) == nil {
		what = fmt.Errorf("%s wanted, %s of %s are free: use a smaller batch, more shards or another GPU", size(bytes), size(free), size(total))
	}
	return &kernels.DeviceError{Device: d.name, Op: "Alloc", Err: what}
}

// size is a number of bytes for people.
func size(bytes int64) string {
	if bytes < 1<<20 {
		return fmt.Sprintf("%d bytes", bytes)
	}
	return fmt.Sprintf("%.1f MiB", float64(bytes)/(1<<20))
}
