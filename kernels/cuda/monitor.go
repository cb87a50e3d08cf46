//go:build cuda

package cuda

// #include "driver.h"
import "C"

import (
	"fmt"
	"sync"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
	"gorgonia.org/cu"

	"github.com/farandole-ml/farandole/kernels"
	"github.com/farandole-ml/farandole/kernels/cuda/gpus"
)

var _ kernels.Monitored = (*device)(nil)

// library is the process's one NVML: opening another one changes variables of its package that the first may be reading.
var library = nvml.New()

// monitor is all of a device that Reading uses, which shares nothing else with the goroutine of the operations.
type monitor struct {
	mu     sync.Mutex
	gpu    *gpus.Monitor // guarded by mu, as what follows; nil before the first reading, and after one that failed
	closed bool
}

// Reading asks NVML, not the driver, for the GPU with this device's UUID.
func (d *device) Reading() (r kernels.Reading, err error) {
	m := &d.monitor
	m.mu.Lock()
	defer m.mu.Unlock()
	if err = m.open(d.ordinal); err == nil {
		if r, err = m.gpu.Read(); err != nil {
			m.end()
		}
	}
	if err != nil {
		return r, fmt.Errorf("%s: reading: %w", d.name, err)
	}
	return r, nil
}

func (m *monitor) open(ordinal cu.Device) error {
	if m.closed {
		return errClosed
	}
	if m.gpu != nil {
		return nil
	}
	id, err := uuidOf(ordinal)
	if err != nil {
		return err
	}
	m.gpu, err = gpus.Watch(library, id)
	return err
}

func (m *monitor) end() {
	m.gpu.Close()
	m.gpu = nil
}

// close makes later readings errors, and waits for one that is under way.
func (m *monitor) close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.gpu != nil {
		m.end()
	}
	m.closed = true
}

// uuidOf is a GPU's UUID as NVML writes it. A part of a GPU (MIG) has its own, which NVML has for no GPU.
func uuidOf(ordinal cu.Device) (string, error) {
	var id [C.FARANDOLE_UUID_BYTES]C.uchar
	if err := driverError(C.farandole_uuid(C.int(ordinal), &id[0])); err != nil {
		return "", fmt.Errorf("its UUID, which drivers for CUDA 11.4 and newer tell: %w", described(err))
	}
	return fmt.Sprintf("GPU-%x-%x-%x-%x-%x", id[:4], id[4:6], id[6:8], id[8:10], id[10:]), nil
}
