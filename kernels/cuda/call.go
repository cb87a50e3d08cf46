//go:build cuda

package cuda

// #include "driver.h"
import "C"

import (
	"fmt"
	"math"
	"runtime"
	"unsafe"

	"gorgonia.org/cu"
)

// Limits of the queue of calls.
const (
	// queueLen is how many calls are gathered before the driver gets them: many, so that a step's sequence is cut where the program
	// waits and hardly elsewhere: see graphs. Fewer keep the GPU from waiting for its first.
	queueLen = 2048
	// maxArgs is the most parameters that a kernel has.
	maxArgs = C.FARANDOLE_MAX_ARGS
)

// action is what a call has the driver do.
type action int

const (
	launchKernel action = iota
	fillZeros           // dst, values
	copyOn              // dst, src, bytes, both on the device
	copyIn              // dst, bytes from host
	copyOut             // src, bytes to host
	callLibrary         // a farandole_lt_call, with the plan as host
)

// call is one call of the driver that waits in the queue. A kernel's parameters, and what else there is, are boxed in eight
// bytes each.
type call struct {
	op     string // the Device's operation, for errors
	action action
	kernel kernel
	grid   dim
	block  dim
	shared int // bytes
	args   [maxArgs]uint64
	n      int
	host   unsafe.Pointer
}

// dim is the extent of a grid or of a block.
type dim struct{ x, y, z int }

func (d dim) c() C.struct_farandole_dim {
	return C.struct_farandole_dim{x: C.uint(d.x), y: C.uint(d.y), z: C.uint(d.z)}
}

// blocks is how many blocks of the given size n takes, along a grid of that many in one dimension.
func blocks(n, size int) int { return (n + size - 1) / size }
func along(n, size int) dim  { return dim{blocks(n, size), 1, 1} }

// line is a block of n threads in a row.
func line(n int) dim { return dim{n, 1, 1} }

// warps is a block of whole warps for n values, of at most most threads.
func warps(n, most int) dim { return line(min(blocks(n, warp)*warp, most)) }

const warp = 32 // threads

// number and float box a kernel's parameters.
func number(n int) uint64 { return uint64(n) }
func truth(x bool) uint64 {
	if x {
		return 1
	}
	return 0
}
func float(x float32) uint64 { return uint64(math.Float32bits(x)) }

// put appends a call to the queue and gives it to be filled in. The queue is flushed first when it is full.
func (d *device) put(op string, a action) *call {
	if len(d.queue) == cap(d.queue) {
		d.flush()
	}
	d.queue = d.queue[:len(d.queue)+1]
	c := &d.queue[len(d.queue)-1]
	c.op, c.action, c.n, c.host = op, a, 0, nil
	return c
}

func (c *call) set(args ...uint64) {
	if len(args) > maxArgs {
		panic(fmt.Sprintf("cuda: %s: %d parameters, at most %d fit", c.op, len(args), maxArgs))
	}
	c.n = copy(c.args[:], args)
}

// launch enqueues a kernel. A grid without blocks is none.
func (d *device) launch(op string, k kernel, grid, block dim, shared int, args ...uint64) {
	if grid.x == 0 || grid.y == 0 || grid.z == 0 {
		return
	}
	c := d.put(op, launchKernel)
	c.kernel, c.grid, c.block, c.shared = k, grid, block, shared
	c.set(args...)
}

// flush hands the queue to the driver. It returns before the GPU has done any of it. The first error sticks: from then
// on calls are dropped.
func (d *device) flush() {
	if d.err == nil && len(d.queue) > 0 {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if err := cu.SetCurrentContext(d.ctx); err != nil {
			_ = d.fail(d.queue[0].op, err)
		}
		done := d.err != nil
		if !done {
			var err error
			if done, err = d.runGraph(); err != nil {
				_ = d.fail(d.queue[len(d.queue)-1].op, err)
			}
		}
		for i := 0; i < len(d.queue) && !done && d.err == nil; i++ {
			if err := d.submit(&d.queue[i]); err != nil {
				_ = d.fail(d.queue[i].op, err)
			}
		}
		d.last = d.queue[len(d.queue)-1].op
	}
	d.queue = d.queue[:0]
}

// submit makes one call of the driver, whose context is current.
func (d *device) submit(c *call) error {
	a := &c.args
	switch c.action {
	case launchKernel:
		return driverError(C.farandole_launch(handle(d.functions[c.kernel]), c.grid.c(), c.block.c(), C.uint(c.shared), handle(d.stream),
			(*C.uint64_t)(&a[0]), C.int(c.n)))
	case fillZeros:
		return cu.MemsetD32Async(cu.DevicePtr(a[0]), 0, int64(a[1]), d.stream)
	case copyOn:
		return cu.MemcpyDtoDAsync(cu.DevicePtr(a[0]), cu.DevicePtr(a[1]), int64(a[2]), d.stream)
	case copyIn:
		return cu.MemcpyHtoDAsync(cu.DevicePtr(a[0]), c.host, int64(a[1]), d.stream)
	case callLibrary:
		return d.submitToLibrary(c)
	default:
		return cu.MemcpyDtoHAsync(c.host, cu.DevicePtr(a[0]), int64(a[1]), d.stream)
	}
}

// do runs f with the device's context on the calling thread. f's calls overtake what is queued.
func (d *device) do(f func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := cu.SetCurrentContext(d.ctx); err != nil {
		return err
	}
	return f()
}

// Sync waits until the GPU has done all that was enqueued.
func (d *device) Sync() error {
	d.flush()
	if d.err == nil && d.last != "" {
		if err := d.do(d.stream.Synchronize); err != nil {
			d.failAsync(err)
		}
	}
	d.last, d.staged = "", 0
	if d.err != nil {
		return d.err
	}
	return nil
}
