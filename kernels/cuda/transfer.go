//go:build cuda

package cuda

// #include "driver.h"
import "C"

import (
	"errors"
	"runtime"
	"unsafe"

	"github.com/farandole-ml/farandole/kernels"
)

// stageLen is the values that may be on their way from and to memory that is not registered: 4 MiB.
const stageLen = 1 << 20

var errClosed = errors.New("the device is closed")

// hostMemory is memory of the host that the driver has locked, so that the GPU reads and writes it by itself.
type hostMemory struct {
	x      []float32
	pinner *runtime.Pinner
}

// register gives memory of n values that the driver has locked. The context is current.
func (d *device) register(n int) ([]float32, error) {
	x := kernels.AlignedFloats(n)
	if n == 0 {
		return x, nil
	}
	h := hostMemory{x, &runtime.Pinner{}}
	h.pinner.Pin(&x[0])
	if err := driverError(C.farandole_register(unsafe.Pointer(&x[0]), C.size_t(4*n))); err != nil {
		h.pinner.Unpin()
		return nil, err
	}
	d.hosts = append(d.hosts, h)
	return x, nil
}

func (h hostMemory) unregister() error {
	defer h.pinner.Unpin()
	return driverError(C.farandole_unregister(unsafe.Pointer(&h.x[0])))
}

// AllocHost gives memory that copies from and to this GPU reach without a detour; where the driver cannot lock so much, ordinary memory.
func (d *device) AllocHost(n int) []float32 {
	var x []float32
	err := d.do(func() (err error) {
		x, err = d.register(n)
		return err
	})
	if err != nil {
		return kernels.AlignedFloats(n)
	}
	return x
}

// registered says whether all of x lies in one piece of registered memory.
func (d *device) registered(x []float32) bool {
	at := uintptr(unsafe.Pointer(unsafe.SliceData(x)))
	for _, h := range d.hosts {
		first := uintptr(unsafe.Pointer(unsafe.SliceData(h.x)))
		if at >= first && at+uintptr(4*len(x)) <= first+uintptr(4*len(h.x)) {
			return true
		}
	}
	return false
}

func (d *device) Upload(dst kernels.Buffer, src []float32) {
	d.shapes.CheckLen("Upload", "dst", dst, len(src))
	d.upload("Upload", address(dst), src)
}

func (d *device) UploadInts(dst kernels.Ints, src []int32) {
	d.shapes.CheckIntsLen("UploadInts", "dst", dst, len(src))
	copy(dst.(*ints).values, src)
	if len(src) > 0 {
		d.upload("UploadInts", addressOfInts(dst), unsafe.Slice((*float32)(unsafe.Pointer(&src[0])), len(src)))
	}
}

// upload enqueues copies of src, which the caller may change when it returns.
func (d *device) upload(op string, dst uint64, src []float32) {
	if len(src) > stageLen && d.registered(src) {
		d.transfer(op, copyIn, dst, src)
		_ = d.Sync() // the error sticks
		return
	}
	for len(src) > 0 && d.err == nil {
		part := d.stageRoom(len(src))
		n := copy(part, src)
		d.transfer(op, copyIn, dst, part)
		dst, src = dst+4*uint64(n), src[n:]
	}
}

func (d *device) Download(dst []float32, src kernels.Buffer) error {
	d.shapes.CheckLen("Download", "src", src, len(dst))
	at := address(src)
	if len(dst) > 0 && d.registered(dst) {
		d.transfer("Download", copyOut, at, dst)
		return d.Sync()
	}
	for len(dst) > 0 && d.err == nil {
		part := d.stageRoom(len(dst))
		d.transfer("Download", copyOut, at, part)
		if err := d.Sync(); err != nil {
			return err
		}
		n := copy(dst, part)
		at, dst = at+4*uint64(n), dst[n:]
	}
	return d.Sync()
}

// transfer enqueues a copy between the GPU and registered memory, which stays as it is until the next wait.
func (d *device) transfer(op string, a action, at uint64, x []float32) {
	c := d.put(op, a)
	c.host = unsafe.Pointer(unsafe.SliceData(x))
	c.set(at, uint64(4*len(x)))
}

// stageRoom gives up to n values of the stage, at least one. It waits when all are in use.
func (d *device) stageRoom(n int) []float32 {
	if d.staged == len(d.stage) {
		_ = d.Sync() // the error sticks
	}
	part := d.stage[d.staged:]
	part = part[:min(n, len(part))]
	d.staged += len(part)
	return part
}
