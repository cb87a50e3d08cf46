//go:build cuda

package cuda

// #include "driver.h"
import "C"

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"unsafe"

	"gorgonia.org/cu"

	"github.com/farandole-ml/farandole/kernels"
)

var _ kernels.Sharer = (*device)(nil)

// handleBytes is what other processes need to find a buffer. Its wire form is handleLen bytes, little-endian.
type handleBytes struct {
	GPU    [16]byte // its UUID: no other host has one with it
	Driver [C.FARANDOLE_IPC_BYTES]byte
	Offset uint64 // bytes into the allocation that the driver's handle means
	Values uint64
}

const handleLen = 16 + C.FARANDOLE_IPC_BYTES + 8 + 8

var _ [kernels.MaxHandle - handleLen]struct{}

// imported is another process's memory, which does not come from the pool.
type imported struct {
	mem  *memory
	base uint64 // of the allocation that was opened
}

var errHandle = errors.New("this is no handle of a GPU's memory")

// Export gives a handle of the allocation that b lies in, with b's place there.
func (d *device) Export(b kernels.Buffer) ([]byte, error) {
	d.shapes.CheckOwned("Export", "b", b)
	h := handleBytes{Values: uint64(b.Len())}
	id, err := d.ordinal.UUID()
	if err != nil {
		return nil, fmt.Errorf("%s: Export: %w", d.name, described(err))
	}
	h.GPU = id
	var offset C.uint64_t
	err = d.do(func() error {
		return driverError(C.farandole_ipc_get(C.uint64_t(address(b)), unsafe.Pointer(&h.Driver[0]), &offset))
	})
	if err != nil {
		return nil, fmt.Errorf("%s: Export: %w", d.name, described(err))
	}
	h.Offset = uint64(offset)
	return binary.Append(nil, binary.LittleEndian, h)
}

// Import maps another process's memory. Its kernels may be at work there: see kernels.Sharer.
func (d *device) Import(handle []byte) (kernels.Buffer, error) {
	var h handleBytes
	if n, err := binary.Decode(handle, binary.LittleEndian, &h); err != nil || n != len(handle) || kernels.CheckAlloc(int(h.Values)) != nil {
		return nil, fmt.Errorf("%s: Import: %w", d.name, errHandle)
	}
	if err := d.reach(h.GPU); err != nil {
		return nil, fmt.Errorf("%s: Import: %w", d.name, err)
	}
	var base C.uint64_t
	if err := d.do(func() error { return driverError(C.farandole_ipc_open(unsafe.Pointer(&h.Driver[0]), &base)) }); err != nil {
		return nil, fmt.Errorf("%s: Import: %w", d.name, described(err))
	}
	m := &memory{d, cu.DevicePtr(uint64(base) + h.Offset)}
	d.imports = append(d.imports, imported{m, uint64(base)})
	return &buffer{m, 0, int(h.Values)}, nil
}

// reach says why this GPU cannot read the memory of the one with this UUID.
func (d *device) reach(id [16]byte) error {
	n, err := cu.NumDevices()
	if err != nil {
		return described(err)
	}
	for i := range n {
		other, err := cu.GetDevice(i)
		if err != nil {
			return described(err)
		}
		if found, err := other.UUID(); err != nil || found != id {
			continue
		}
		if other == d.ordinal {
			return nil
		}
		switch can, err := d.ordinal.CanAccessPeer(other); {
		case err != nil:
			return described(err)
		case can == 0:
			return fmt.Errorf("it has no access to the memory of GPU %d", i)
		}
		return nil
	}
	return errors.New("the memory is of a GPU that this process does not see: it is another host's, or CUDA_VISIBLE_DEVICES hides it")
}

// Release makes b nobody's. Close has done it for what was left.
func (d *device) Release(b kernels.Buffer) error {
	if d.closed {
		return nil
	}
	i := slices.IndexFunc(d.imports, func(m imported) bool { return m.mem == b.(*buffer).mem })
	if i < 0 {
		panic("cuda: Release of a buffer that was not imported, or twice")
	}
	_ = d.Sync() // an error sticks, and is told to the next who waits
	gone := d.imports[i]
	d.imports = slices.Delete(d.imports, i, i+1)
	gone.mem.device = nil
	if err := d.do(gone.close); err != nil && d.err == nil {
		return fmt.Errorf("%s: Release: %w", d.name, described(err))
	}
	return nil
}

func (m imported) close() error { return driverError(C.farandole_ipc_close(C.uint64_t(m.base))) }
