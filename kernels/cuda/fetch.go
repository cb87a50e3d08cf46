//go:build cuda

package cuda

import (
	"cmp"
	"fmt"
	"sync/atomic"
	"unsafe"

	"gorgonia.org/cu"

	"github.com/farandole-ml/farandole/kernels"
)

var _ kernels.Fetcher = (*device)(nil)

// fetch is a copy to the host on the stream aside. Until done it belongs to the goroutine that waits for it.
type fetch struct {
	after cu.Event // on the device's stream: what the copy comes after
	end   cu.Event // on the stream aside
	src   *memory  // which is nobody else's before the end
	done  atomic.Bool
}

// Fetch flushes the queue: the copy comes after it.
func (d *device) Fetch(dst []float32, src kernels.Buffer) (wait func() error) {
	d.shapes.CheckLen("Fetch", "src", src, len(dst))
	if len(dst) == 0 || !d.registered(dst) {
		err := d.Download(dst, src)
		d.Zero(src)
		return func() error { return err }
	}
	d.flush()
	var f *fetch
	if d.err == nil {
		if err := d.do(func() (err error) { f, err = d.begin(dst, src); return err }); err != nil {
			_ = d.fail("Fetch", err)
		}
	}
	if err := d.err; err != nil {
		return func() error { return err }
	}
	return func() error { return d.await(f) }
}

// begin hands a fetch to the driver, whose context is current.
func (d *device) begin(dst []float32, src kernels.Buffer) (*fetch, error) {
	f, err := d.unused()
	if err != nil {
		return nil, err
	}
	f.done.Store(false)
	f.src = src.(*buffer).mem
	at := cu.DevicePtr(address(src))
	if err := f.after.Record(d.stream); err != nil {
		return nil, err
	}
	if err := d.aside.Wait(f.after, 0); err != nil {
		return nil, err
	}
	if err := cu.MemcpyDtoHAsync(unsafe.Pointer(&dst[0]), at, int64(4*len(dst)), d.aside); err != nil {
		return nil, err
	}
	if err := cu.MemsetD32Async(at, 0, int64(len(dst)), d.aside); err != nil {
		return nil, err
	}
	return f, f.end.Record(d.aside)
}

// unused gives a fetch that is done, or a new one.
func (d *device) unused() (*fetch, error) {
	for _, f := range d.fetches {
		if f.done.Load() {
			return f, nil
		}
	}
	f := &fetch{}
	d.fetches = append(d.fetches, f)
	var err error
	if f.after, err = cu.MakeEvent(cu.DisableTiming); err == nil {
		f.end, err = cu.MakeEvent(cu.DisableTiming)
	}
	return f, err
}

// await waits for f. It is another goroutine's call: of the device it uses what never changes.
func (d *device) await(f *fetch) error {
	err := d.do(f.end.Synchronize)
	f.src = nil
	f.done.Store(true)
	if err != nil {
		return &kernels.DeviceError{Device: d.name, Op: "Fetch", Err: fmt.Errorf("%w, in this or an operation before", described(err))}
	}
	return nil
}

func (f *fetch) destroy() error { return cmp.Or(destroyed(&f.after), destroyed(&f.end)) }

func destroyed(e *cu.Event) error {
	if *e == (cu.Event{}) {
		return nil
	}
	return cu.DestroyEvent(e)
}
