//go:build cuda

package gpus

import (
	"fmt"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"github.com/farandole-ml/farandole/kernels"
)

// Monitor reads one GPU again and again. It is used by one goroutine at a time.
type Monitor struct {
	lib nvml.Interface
	id  string
	gpu nvml.Device
}

// Watch finds the GPU with a UUID, "GPU-…", wherever NVML has it in its order, and keeps NVML open until Close.
func Watch(lib nvml.Interface, id string) (*Monitor, error) {
	if code := lib.Init(); code != nvml.SUCCESS {
		return nil, fmt.Errorf("NVML: %s", reason(code))
	}
	gpu, code := lib.DeviceGetHandleByUUID(id)
	if code == nvml.SUCCESS {
		return &Monitor{lib, id, gpu}, nil
	}
	_ = lib.Shutdown()
	if code == nvml.ERROR_NOT_FOUND {
		return nil, fmt.Errorf("NVML knows no %s: a part of a GPU (MIG) has no readings of its own", id)
	}
	return nil, fmt.Errorf("NVML: %s: %s", id, reason(code))
}

// Read asks the GPU. An error says that it does not answer any more.
func (m *Monitor) Read() (kernels.Reading, error) {
	r, code := read(m.gpu)
	if code != nvml.SUCCESS {
		return r, fmt.Errorf("NVML: %s: %s", m.id, reason(code))
	}
	r.ID = m.id
	return r, nil
}

// Close ends the use of NVML.
func (m *Monitor) Close() { _ = m.lib.Shutdown() }
