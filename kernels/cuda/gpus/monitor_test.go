//go:build cuda

package gpus

import (
	"testing"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock"
	"github.com/stretchr/testify/require"
)

// known is NVML with one GPU, "GPU-0", and how often it was opened and not closed again.
func known(d *mock.Device) (lib *mock.Interface, open *int) {
	open = new(int)
	lib = host(d)
	lib.InitFunc = func() nvml.Return { *open++; return nvml.SUCCESS }
	lib.ShutdownFunc = func() nvml.Return { *open--; return nvml.SUCCESS }
	lib.DeviceGetHandleByUUIDFunc = func(id string) (nvml.Device, nvml.Return) {
		if id != "GPU-0" {
			return nil, nvml.ERROR_NOT_FOUND
		}
		return d, nvml.SUCCESS
	}
	return lib, open
}

func TestMonitor(t *testing.T) {
	d := busy()
	lib, open := known(d)
	m, err := Watch(lib, "GPU-0")
	require.NoError(t, err)
	for range 2 {
		r, err := m.Read()
		require.NoError(t, err)
		require.Equal(t, "GPU-0", r.ID)
		require.InDelta(t, 0.93, r.Utilization, 1e-9)
	}
	require.Equal(t, 1, *open, "NVML is not opened for every reading")

	d.GetPowerUsageFunc = func() (uint32, nvml.Return) { return 0, nvml.ERROR_GPU_IS_LOST }
	_, err = m.Read()
	require.ErrorContains(t, err, "NVML: GPU-0: ")
	m.Close()
	require.Zero(t, *open)
}

func TestMonitorOfNothing(t *testing.T) {
	lib, open := known(busy())
	_, err := Watch(lib, "GPU-1")
	require.EqualError(t, err, "NVML knows no GPU-1: a part of a GPU (MIG) has no readings of its own")
	require.Zero(t, *open)
	lib.DeviceGetHandleByUUIDFunc = func(string) (nvml.Device, nvml.Return) { return nil, nvml.ERROR_GPU_IS_LOST }
	_, err = Watch(lib, "GPU-0")
	require.ErrorContains(t, err, "NVML: GPU-0: ")
	require.Zero(t, *open)
	lib.InitFunc = func() nvml.Return { return nvml.ERROR_LIBRARY_NOT_FOUND }
	_, err = Watch(lib, "GPU-0")
	require.EqualError(t, err, "NVML: this host has no NVIDIA driver (libnvidia-ml.so.1 is not there)")
	require.Zero(t, *open, "what was not opened is not closed")
}
