//go:build cuda

package cuda

import (
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"gorgonia.org/cu"

	"github.com/farandole-ml/farandole/kernels"
)

// On any GPU: NVML knows the one on which this process computes, and says of its memory what the driver says.
func TestReadingOfThisGPU(t *testing.T) {
	d := newDevice(t)
	r, err := d.Reading()
	if err != nil && strings.Contains(err.Error(), "(MIG)") {
		skipWithout(t, err)
	}
	require.NoError(t, err)
	t.Log(r.ID, r)
	var total int64
	require.NoError(t, d.do(func() (err error) { _, total, err = cu.MemInfo(); return err }))
	require.InEpsilon(t, float64(total), r.MemoryTotal, 0.1)
	require.LessOrEqual(t, r.MemoryUsed, r.MemoryTotal)
	require.True(t, r.Utilization >= 0 && r.Utilization <= 1, "%v", r.Utilization)
	require.True(t, r.Temperature > 0 && r.Temperature < 150, "%v", r.Temperature)
}

// NVML's order of the GPUs is another than the driver's here: readings are of the GPU that computes.
func TestReading(t *testing.T) {
	if !emulated(t, "GPUS=2", "HEAT=1:77") {
		return
	}
	ids := map[string]bool{}
	for rank, want := range []float64{31, 77, 31} {
		d, err := kernels.Open("cuda", kernels.Config{LocalRank: rank})
		require.NoError(t, err)
		m := d.(kernels.Monitored)
		for range 2 {
			r, err := m.Reading()
			require.NoError(t, err)
			require.Equal(t, want, r.Temperature, "rank %d", rank)
			require.Regexp(t, `^GPU-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`, r.ID)
			ids[r.ID] = true
		}
		require.NoError(t, d.Close())
		_, err = m.Reading()
		require.ErrorIs(t, err, errClosed)
		require.ErrorContains(t, err, d.Name()+": reading: ")
	}
	require.Len(t, ids, 2, "workers that share a GPU give it one name")
}

// Readings go on beside operations, beside each other, past a failure of the device, and into its end.
func TestReadingBesideOperations(t *testing.T) {
	if !emulated(t, "LAZY=1", "FAIL=0:200") {
		return
	}
	d := newDevice(t)
	b := uploaded(t, d, 1, 2, 3)
	var readers sync.WaitGroup
	began := make(chan struct{}, 2)
	for range cap(began) {
		readers.Go(func() {
			for n := 0; ; n++ {
				_, err := d.Reading()
				if n == 0 {
					began <- struct{}{}
				}
				if err != nil {
					if !strings.HasSuffix(err.Error(), errClosed.Error()) {
						t.Error(err)
					}
					return
				}
			}
		})
	}
	for range cap(began) {
		<-began
	}
	for range 300 {
		d.Scale(b, 2)
		_ = d.Sync() // fails from the 200th launch on
	}
	var failed *kernels.DeviceError
	require.ErrorAs(t, d.Sync(), &failed)
	_, err := d.Reading()
	require.NoError(t, err, "a device that failed says how it is")
	require.NoError(t, d.Close())
	readers.Wait()
}
