package kernels

import (
	"fmt"
	"math"
	"slices"
	"unsafe"
)

// NewReference gives the canonical arithmetic as plain Go on one thread: slow, and by definition right.
// Its operations have ended when they return, Sync and Close do nothing, Host gives the memory itself.
func NewReference() Device {
	return newHostDevice("reference go", ClassF32, reference{}, &pool{threads: 1})
}

// hostDevice is a Device on ordinary memory. It checks shapes, cuts operations into parts and
// has an engine compute them on a pool.
type hostDevice struct {
	name   string
	class  string
	engine engine
	pool   *pool
	tasks  tasks

	conv convScratch

	minPartWork, sharedFloats, columnFloats int
}

func newHostDevice(name, class string, e engine, p *pool) *hostDevice {
	return &hostDevice{name: name, class: class, engine: e, pool: p, minPartWork: minPartWork, sharedFloats: sharedFloats, columnFloats: columnFloats}
}

func (d *hostDevice) Name() string  { return d.name }
func (d *hostDevice) Class() string { return d.class }
func (d *hostDevice) Sync() error   { return nil }

// Close ends the device's goroutines. Buffers stay readable through Host.
func (d *hostDevice) Close() error {
	d.pool.close()
	return nil
}

// hostBuffer and hostInts are memory of one hostDevice.
type hostBuffer struct {
	device *hostDevice
	x      []float32
}

type hostInts struct {
	device *hostDevice
	x      []int32
}

func (b *hostBuffer) Len() int { return len(b.x) }
func (b *hostInts) Len() int   { return len(b.x) }

func (b *hostBuffer) Slice(off, n int) Buffer {
	checkSlice(off, n, len(b.x))
	return &hostBuffer{b.device, b.x[off : off+n : off+n]}
}

func (b *hostInts) Slice(off, n int) Ints {
	checkSlice(off, n, len(b.x))
	return &hostInts{b.device, b.x[off : off+n : off+n]}
}

func checkSlice(off, n, length int) {
	if off < 0 || n < 0 || off > length-n {
		panic(fmt.Sprintf("kernels: Slice(%d, %d) of a buffer of %d values", off, n, length))
	}
}

// alignBytes is the alignment of buffers: one cache line, one AVX-512 register.
const alignBytes = 64

func checkAlloc(n int) error {
	if n < 0 || n > math.MaxInt/8 {
		return fmt.Errorf("kernels: cannot allocate a buffer of %d values", n)
	}
	return nil
}

func (d *hostDevice) Alloc(n int) (Buffer, error) {
	if err := checkAlloc(n); err != nil {
		return nil, err
	}
	return &hostBuffer{d, alignedFloats(n)}, nil
}

func alignedFloats(n int) []float32 {
	x := make([]float32, n+alignBytes/4)
	off := 0
	if rest := uintptr(unsafe.Pointer(&x[0])) % alignBytes; rest != 0 {
		off = int(alignBytes-rest) / 4
	}
	wantHugePages(x)
	return x[off : off+n : off+n]
}

func (d *hostDevice) AllocInts(n int) (Ints, error) {
	if err := checkAlloc(n); err != nil {
		return nil, err
	}
	return &hostInts{d, make([]int32, n)}, nil
}

func (d *hostDevice) Host(b Buffer) []float32 { return d.own("Host", "b", b) }

func (d *hostDevice) Upload(dst Buffer, src []float32) {
	x := d.floats("Upload", "dst", dst, len(src))
	copy(x, src)
}

func (d *hostDevice) UploadInts(dst Ints, src []int32) {
	x := d.ints("UploadInts", "dst", dst, len(src))
	copy(x, src)
}

func (d *hostDevice) Download(dst []float32, src Buffer) error {
	x := d.floats("Download", "src", src, len(dst))
	copy(dst, x)
	return nil
}

// own is b's memory, or a panic when b is not this device's.
func (d *hostDevice) own(op, arg string, b Buffer) []float32 {
	h, ok := b.(*hostBuffer)
	if !ok || h.device != d {
		panic(fmt.Sprintf("kernels: %s: %s is no buffer of device %q", op, arg, d.name))
	}
	return h.x
}

// floats is b's memory, or a panic when b is not this device's or has not n values.
func (d *hostDevice) floats(op, arg string, b Buffer, n int) []float32 {
	x := d.own(op, arg, b)
	if len(x) != n {
		panic(fmt.Sprintf("kernels: %s: %s has %d values, its shape needs %d", op, arg, len(x), n))
	}
	return x
}

func (d *hostDevice) ints(op, arg string, b Ints, n int) []int32 {
	h, ok := b.(*hostInts)
	if !ok || h.device != d {
		panic(fmt.Sprintf("kernels: %s: %s is no buffer of device %q", op, arg, d.name))
	}
	if len(h.x) != n {
		panic(fmt.Sprintf("kernels: %s: %s has %d values, its shape needs %d", op, arg, len(h.x), n))
	}
	return h.x
}

// optional is floats for an argument that may be nil.
func (d *hostDevice) optional(op, arg string, b Buffer, n int) []float32 {
	if b == nil {
		return nil
	}
	return d.floats(op, arg, b, n)
}

// maxWork bounds the product of an operation's dimensions, so that no size computed from them wraps around.
const maxWork = 1 << 60

// checkDims panics unless every dimension is at least 1 and their product at most maxWork.
func checkDims(op string, dims ...int) {
	work := 1
	for _, n := range dims {
		if n < 1 || n > maxWork/work {
			// The clone keeps dims itself off the heap.
			panic(fmt.Sprintf("kernels: %s: dimensions %v: each must be at least 1, and their product at most 2⁶⁰", op, slices.Clone(dims)))
		}
		work *= n
	}
}

// checkIDs panics unless every id is in [low, n).
func checkIDs(op, arg string, ids []int32, low int32, n int) {
	for i, id := range ids {
		if id < low || int(id) >= n {
			panic(fmt.Sprintf("kernels: %s: %s[%d] is %d, outside [%d, %d)", op, arg, i, id, low, n))
		}
	}
}
