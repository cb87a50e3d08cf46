//go:build cuda

// Package gpus says what NVIDIA GPUs a host has, as NVML sees them: all of them, whatever CUDA_VISIBLE_DEVICES hides from a process.
package gpus

import (
	"fmt"
	"slices"
	"strings"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"github.com/farandole-ml/farandole/kernels"
)

// Host is what NVML sees on one host.
type Host struct {
	Driver string // its version
	GPUs   []GPU
}

// GPU is one of them.
type GPU struct {
	Name        string
	MemoryBytes uint64
}

// List asks NVML, which nvml.New gives. Without a driver or a GPU the error is a kernels.ErrNoGPU.
func List(lib nvml.Interface) (h Host, err error) {
	if code := lib.Init(); code != nvml.SUCCESS {
		return h, fmt.Errorf("%w: NVML: %s", kernels.ErrNoGPU, reason(code))
	}
	defer func() { _ = lib.Shutdown() }()
	var code nvml.Return
	if h.Driver, code = lib.SystemGetDriverVersion(); code != nvml.SUCCESS {
		return h, fmt.Errorf("NVML: driver version: %s", reason(code))
	}
	n, code := lib.DeviceGetCount()
	if code != nvml.SUCCESS {
		return h, fmt.Errorf("NVML: number of GPUs: %s", reason(code))
	}
	if n == 0 {
		return h, fmt.Errorf("%w: NVML finds none, with driver %s", kernels.ErrNoGPU, h.Driver)
	}
	for i := range n {
		g, code := describe(lib, i)
		if code != nvml.SUCCESS {
			return h, fmt.Errorf("NVML: GPU %d: %s", i, reason(code))
		}
		h.GPUs = append(h.GPUs, g)
	}
	return h, nil
}

func describe(lib nvml.Interface, i int) (g GPU, code nvml.Return) {
	d, code := lib.DeviceGetHandleByIndex(i)
	if code != nvml.SUCCESS {
		return g, code
	}
	if g.Name, code = d.GetName(); code != nvml.SUCCESS {
		return g, code
	}
	m, code := d.GetMemoryInfo()
	g.MemoryBytes = m.Total
	return g, code
}

// reason puts the commonest answer of a host without GPUs into words.
func reason(code nvml.Return) string {
	if code == nvml.ERROR_LIBRARY_NOT_FOUND {
		return "this host has no NVIDIA driver (libnvidia-ml.so.1 is not there)"
	}
	return nvml.ErrorString(code)
}

// String is for people: "2 × NVIDIA H100 with 80 GiB, driver 550.54".
func (h Host) String() string {
	var kinds []string
	number := map[string]int{}
	for _, g := range h.GPUs {
		kind := fmt.Sprintf("%s with %d GiB", g.Name, g.MemoryBytes>>30)
		if number[kind]++; number[kind] == 1 {
			kinds = append(kinds, kind)
		}
	}
	slices.Sort(kinds)
	for i, kind := range kinds {
		kinds[i] = fmt.Sprintf("%d × %s", number[kind], kind)
	}
	return fmt.Sprintf("%s, driver %s", strings.Join(kinds, " and "), h.Driver)
}
