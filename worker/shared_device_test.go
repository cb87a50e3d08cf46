package worker

import (
	"encoding/binary"
	"errors"
	"math"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/farandole-ml/farandole/kernels"
)

// fakeHost is where the devices of a test's workers find each other's memory.
type fakeHost struct {
	mu       sync.Mutex
	exported []*sharedBuffer
	open     int // imports that were not released, and exchanges that were not closed
	imports  int
	meetings []*fakeMeeting
	joins    int
}

// sharedDevice is a device that does nothing before it must, and shares its memory. What it cannot do is nil.
type sharedDevice struct {
	kernels.Device
	t      *testing.T
	host   *fakeHost
	grads  *sharedBuffer
	queue  []func()
	syncs  int
	copied atomic.Int64          // how often others' parts were copied
	others bool                  // such copies are enqueued
	onSync func(n int)           // called by each Sync with its number, from 1, before anything is done; nil: nothing
	room   int                   // buffers that are left; below zero there is no end
	refuse func(at string) error // of Export and Import, and of what an exchange has; nil: none
	gpu    string                // its place; empty means one of its own
	garble bool                  // what it sends first is not what was there

	swaps int // since the last wait, which must be the exchange's
}

type sharedBuffer struct {
	x      []float32
	owner  *sharedDevice // nil of an import
	closed *bool
}

func (b *sharedBuffer) Len() int { return len(b.x) }
func (b *sharedBuffer) Slice(off, n int) kernels.Buffer {
	kernels.CheckSlice(off, n, len(b.x))
	return &sharedBuffer{b.x[off : off+n], b.owner, b.closed}
}

func (d *sharedDevice) Name() string { return "shared" }

func (d *sharedDevice) Alloc(n int) (kernels.Buffer, error) {
	if d.room == 0 {
		return nil, &kernels.DeviceError{Device: "shared", Op: "Alloc", Err: errors.New("no room")}
	}
	d.room--
	b := &sharedBuffer{make([]float32, n), d, new(bool)}
	for i := range b.x {
		b.x[i] = float32(math.NaN())
	}
	return b, nil
}

// gradients gives the memory of width and one gradients.
func (d *sharedDevice) gradients(width int) (w, b []float32) {
	x := make([]float32, width+1)
	d.grads = &sharedBuffer{x, d, new(bool)}
	return x[:width], x[width:]
}

// enqueue checks the operands of f, which computes dst of src, and does it later.
func (d *sharedDevice) enqueue(dst *sharedBuffer, f func(), src ...kernels.Buffer) {
	require.Same(d.t, d, dst.owner, "what is written is the device's own")
	operands := []*sharedBuffer{dst}
	for _, s := range src {
		operands = append(operands, s.(*sharedBuffer))
	}
	for _, o := range operands {
		require.False(d.t, *o.closed, "what was released is used")
	}
	d.queue = append(d.queue, f)
}

func (d *sharedDevice) Sync() error {
	require.Zero(d.t, d.swaps, "the device alone waits for what others may never send")
	return d.work()
}

// work does what is enqueued.
func (d *sharedDevice) work() error {
	d.syncs++
	if d.onSync != nil {
		d.onSync(d.syncs)
	}
	for _, f := range d.queue {
		f()
	}
	d.queue = nil
	if d.others {
		d.others = false
		d.copied.Add(1)
	}
	return nil
}

func (d *sharedDevice) Download(dst []float32, src kernels.Buffer) error {
	err := d.Sync()
	copy(dst, src.(*sharedBuffer).x)
	return err
}

func (d *sharedDevice) Zero(b kernels.Buffer) {
	x := b.(*sharedBuffer)
	d.enqueue(x, func() { clear(x.x) })
}

func (d *sharedDevice) Copy(dst, src kernels.Buffer) {
	to, from := dst.(*sharedBuffer), src.(*sharedBuffer)
	require.Len(d.t, to.x, len(from.x))
	d.others = d.others || from.owner == nil
	d.enqueue(to, func() { copy(to.x, from.x) }, src)
}

func (d *sharedDevice) Add(dst, a, b kernels.Buffer) {
	to, x, y := dst.(*sharedBuffer), a.(*sharedBuffer), b.(*sharedBuffer)
	require.Len(d.t, to.x, len(x.x))
	require.Len(d.t, to.x, len(y.x))
	d.enqueue(to, func() { kernels.AddF32(to.x, x.x, y.x) }, a, b)
}

func (d *sharedDevice) AddRounded(dst, a, b kernels.Buffer) {
	out, x := dst.(*sharedBuffer), a.(*sharedBuffer)
	if b == nil {
		d.enqueue(out, func() { rounded.Run([][]byte{asBytes(out.x)}, [][]byte{asBytes(x.x)}) }, a)
		return
	}
	y := b.(*sharedBuffer)
	d.enqueue(out, func() { rounded.Run([][]byte{asBytes(out.x)}, [][]byte{asBytes(x.x), asBytes(y.x)}) }, a, b)
}

func (d *sharedDevice) Sum(out, b kernels.Buffer) {
	to, x := out.(*sharedBuffer), b.(*sharedBuffer)
	d.enqueue(to, func() {
		to.x[0] = 0
		for _, v := range x.x {
			to.x[0] += v
		}
	}, b)
}

func (d *sharedDevice) refuses(what string) error {
	if d.refuse == nil {
		return nil
	}
	return d.refuse(what)
}

func (d *sharedDevice) Export(b kernels.Buffer) ([]byte, error) {
	if err := d.refuses("export"); err != nil {
		return nil, err
	}
	d.host.mu.Lock()
	defer d.host.mu.Unlock()
	d.host.exported = append(d.host.exported, b.(*sharedBuffer))
	return binary.LittleEndian.AppendUint32(nil, uint32(len(d.host.exported)-1)), nil
}

func (d *sharedDevice) Import(handle []byte) (kernels.Buffer, error) {
	if err := d.refuses("import"); err != nil {
		return nil, err
	}
	d.host.mu.Lock()
	defer d.host.mu.Unlock()
	d.host.open++
	d.host.imports++
	return &sharedBuffer{d.host.exported[binary.LittleEndian.Uint32(handle)].x, nil, new(bool)}, nil
}

func (d *sharedDevice) Release(b kernels.Buffer) error {
	closed := b.(*sharedBuffer).closed
	require.False(d.t, *closed)
	err := d.Sync()
	*closed = true
	d.host.mu.Lock()
	defer d.host.mu.Unlock()
	d.host.open--
	return err
}
