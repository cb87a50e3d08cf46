//go:build cuda

package cuda

// #cgo LDFLAGS: -ldl
// #include <stdlib.h>
// #include "driver.h"
// #include "nccl.h"
import "C"

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
	"unsafe"

	"github.com/farandole-ml/farandole/kernels"
)

var _ kernels.Exchanger = (*device)(nil)

// ncclFile is the name by which the dynamic linker looks for NCCL.
const ncclFile = "libnccl.so.2"

// ncclLeast is the oldest version whose header was compared with what is called here: 2.18.3.
const ncclLeast = 21803

// loadNCCL finds the library, once.
var loadNCCL = sync.OnceValue(func() error {
	var why [reasonLen]C.char
	var version C.int
	name := C.CString(ncclFile)
	defer C.free(unsafe.Pointer(name))
	if C.farandole_nccl_load(name, &version, &why[0], reasonLen) != 0 {
		return fmt.Errorf("NCCL is not here (%s): install the library and name its folder in LD_LIBRARY_PATH (it comes with PyTorch, and as PyPI's nvidia-nccl-cu12)",
			C.GoString(&why[0]))
	}
	if version < ncclLeast {
		return fmt.Errorf("NCCL is here in version %s: install %s or newer", ncclVersion(int(version)), ncclVersion(ncclLeast))
	}
	return nil
})

// ncclVersion writes 21803 as 2.18.3. Versions before 2.9 had other numbers.
func ncclVersion(v int) string {
	if v < 10000 {
		return fmt.Sprintf("%d.%d.%d", v/1000, v/100%10, v%100)
	}
	return fmt.Sprintf("%d.%d.%d", v/10000, v/100%100, v%100)
}

// ncclResult is the library's own failure; in progress is none.
func ncclResult(doing string, status C.int) error {
	if status == 0 || status == C.FARANDOLE_NCCL_IN_PROGRESS {
		return nil
	}
	return fmt.Errorf("NCCL: %s: %s (status %d); NCCL_DEBUG=WARN in the environment tells more", doing, C.GoString(C.farandole_nccl_describe(status)), status)
}

// Place is the GPU's UUID, where there is the library.
func (d *device) Place() ([]byte, error) {
	if err := loadNCCL(); err != nil {
		return nil, fmt.Errorf("%s: %w", d.name, err)
	}
	id, err := d.ordinal.UUID()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", d.name, described(err))
	}
	return id[:], nil
}

var _ [kernels.MaxHandle - C.FARANDOLE_NCCL_ID_BYTES]struct{}

// NewExchange has the library listen for the ranks, until all have come.
func (d *device) NewExchange() ([]byte, error) {
	if err := loadNCCL(); err != nil {
		return nil, fmt.Errorf("%s: %w", d.name, err)
	}
	id := make([]byte, C.FARANDOLE_NCCL_ID_BYTES)
	if err := d.do(func() error { return ncclResult("it gives no id", C.farandole_nccl_id(unsafe.Pointer(&id[0]))) }); err != nil {
		return nil, fmt.Errorf("%s: NewExchange: %w", d.name, err)
	}
	return id, nil
}

// exchange is one communicator.
type exchange struct {
	d        *device
	comm     unsafe.Pointer // nil: it was ended
	world    int
	messages []C.struct_farandole_nccl_message
	err      error // the first one; it stays
}

var (
	errExchangeID     = errors.New("this is no name of an exchange")
	errExchangeClosed = errors.New("the exchange was closed")
)

func (d *device) JoinExchange(ctx context.Context, id []byte, rank, world int) (kernels.Exchange, error) {
	if err := loadNCCL(); err != nil {
		return nil, fmt.Errorf("%s: %w", d.name, err)
	}
	if len(id) != C.FARANDOLE_NCCL_ID_BYTES {
		return nil, fmt.Errorf("%s: JoinExchange: %w", d.name, errExchangeID)
	}
	if d.err != nil {
		return nil, d.err
	}
	x := &exchange{d: d, world: world}
	err := d.do(func() error {
		return ncclResult("it does not begin", C.farandole_nccl_join(&x.comm, unsafe.Pointer(&id[0]), C.int(rank), C.int(world)))
	})
	if x.comm != nil {
		d.exchanges = append(d.exchanges, x)
	}
	if err == nil && x.comm == nil {
		err = errExchangeID
	}
	if err == nil {
		err = x.until(ctx, x.ready)
	}
	if err != nil {
		return nil, x.end(fmt.Errorf("%s: JoinExchange: %w", d.name, err))
	}
	return x, nil
}

// ready says whether the library has done all that it was asked for, so that it may be asked for more.
func (x *exchange) ready() (bool, error) {
	var state C.int
	if err := x.d.do(func() error { state = C.farandole_nccl_state(x.comm); return nil }); err != nil {
		return false, err
	}
	return state == 0, ncclResult("a rank is gone, or cannot be reached", state)
}

// Limits of waiting for the library and for the GPU: the first and the longest pause between two looks, and how long
// the stream has until it is at its end once nothing of an exchange is left on it.
const (
	firstLook  = 10 * time.Microsecond
	lastLook   = time.Millisecond
	abortLimit = 10 * time.Second
)

// until looks again and again until done is true. Whatever it waits for may depend on a rank that is no more.
func (x *exchange) until(ctx context.Context, done func() (bool, error)) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for pause := firstLook; ; pause = min(2*pause, lastLook) {
		select {
		case <-ctx.Done():
		case <-timer.C:
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if is, err := done(); is || err != nil {
			return err
		}
		timer.Reset(pause)
	}
}

func (x *exchange) Swap(ctx context.Context, sends, recvs []kernels.Message) error {
	d := x.d
	x.messages = x.messages[:0]
	for i, list := range [][]kernels.Message{sends, recvs} {
		for _, m := range list {
			d.shapes.CheckOwned("Swap", "message", m.Buffer)
			if m.Peer < 0 || m.Peer >= x.world {
				panic(fmt.Sprintf("cuda: Swap with rank %d of %d", m.Peer, x.world))
			}
			if n := m.Buffer.Len(); n > 0 {
				x.messages = append(x.messages, C.struct_farandole_nccl_message{at: C.uint64_t(address(m.Buffer)), values: C.uint64_t(n), peer: C.int(m.Peer), receive: C.int(i)})
			}
		}
	}
	if x.err != nil {
		return x.err
	}
	if d.flush(); d.err != nil {
		return x.end(d.err)
	}
	if len(x.messages) == 0 {
		return nil
	}
	d.last = "Swap"
	err := d.do(func() error {
		return ncclResult("it does not send", C.farandole_nccl_swap(x.comm, &x.messages[0], C.int(len(x.messages)), handle(d.stream)))
	})
	if err == nil {
		err = x.until(ctx, x.ready) // before that the stream does not have it, and what is enqueued next would come first
	}
	if err != nil {
		return x.end(fmt.Errorf("%s: Swap: %w", d.name, err))
	}
	return nil
}

func (x *exchange) Sync(ctx context.Context) error {
	d := x.d
	if x.err != nil {
		return x.err
	}
	if d.flush(); d.err != nil {
		return x.end(d.err)
	}
	err := x.until(ctx, func() (bool, error) {
		if idle, err := d.idle(); idle || err != nil {
			return true, err
		}
		_, err := x.ready()
		return false, err
	})
	if d.err != nil {
		return x.end(d.err)
	}
	if err != nil {
		return x.end(fmt.Errorf("%s: Sync: %w", d.name, err))
	}
	return d.Sync()
}

// idle says whether the stream has done all that it was given. Its error sticks.
func (d *device) idle() (bool, error) {
	var result C.int
	if err := d.do(func() error { result = C.farandole_nccl_query(handle(d.stream)); return nil }); err != nil {
		return false, d.fail("Sync", err)
	}
	switch result {
	case C.FARANDOLE_STREAM_DONE:
		return true, nil
	case C.FARANDOLE_STREAM_BUSY:
		return false, nil
	}
	d.failAsync(driverError(result))
	return false, d.err
}

// Close ends the communicator by aborting it, after work that is done too: the library's other way to end one waits for the other ranks.
func (x *exchange) Close() error {
	if x.comm == nil {
		return nil
	}
	x.err = fmt.Errorf("%s: %w", x.d.name, errExchangeClosed)
	return x.abort()
}

// end makes err, which there is, the exchange's, and has nothing of it left on the device.
func (x *exchange) end(err error) error {
	if x.err == nil {
		x.err = err
	}
	if failed := x.abort(); failed != nil && x.d.err != nil {
		x.err = x.d.err // whoever thinks that the device is as good as before must know
	}
	return x.err
}

// abort ends what the stream waits for, and waits for the stream.
func (x *exchange) abort() error {
	if x.comm == nil {
		return nil
	}
	d, comm := x.d, x.comm
	x.comm = nil
	d.exchanges = slices.DeleteFunc(d.exchanges, func(other *exchange) bool { return other == x })
	err := d.do(func() error { return ncclResult("it does not end", C.farandole_nccl_abort(comm)) })
	if d.err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(context.Background(), abortLimit, fmt.Errorf("its stream has not come to an end %v after NCCL was told to", abortLimit))
	defer cancel()
	if e := x.until(ctx, d.idle); e != nil {
		return d.fail("Swap", e)
	}
	if err != nil {
		return fmt.Errorf("%s: Close: %w", d.name, err)
	}
	return nil
}
