package kernels_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/farandole-ml/farandole/kernels"
	"github.com/farandole-ml/farandole/kernels/kernelstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// newCPU is a device that cuts even small operations for all its threads.
func newCPU(t testing.TB, isa string, threads int) kernels.Device {
	t.Helper()
	d, err := kernels.NewCPU(kernels.Config{ISA: isa, Threads: threads})
	require.NoError(t, err)
	kernels.CutFinely(d)
	t.Cleanup(func() { require.NoError(t, d.Close()) })
	return d
}

func TestReference(t *testing.T) {
	kernelstest.Run(t, func(testing.TB) kernels.Device { return kernels.NewReference() })
}

func TestCPU(t *testing.T) {
	for _, isa := range kernels.ISAs() {
		t.Run(isa, func(t *testing.T) {
			kernelstest.Run(t, func(t testing.TB) kernels.Device { return newCPU(t, isa, 2) })
		})
	}
}

// TestEqualBits is the package's promise: every instruction set and number of threads gives the reference's bits.
func TestEqualBits(t *testing.T) {
	reference := kernels.NewReference()
	seeds := []uint64{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}
	for _, isa := range kernels.ISAs() {
		for threads := 1; threads <= 3; threads++ {
			d := newCPU(t, isa, threads)
			t.Run(d.Name(), func(t *testing.T) { kernelstest.EqualBits(t, reference, d, 70, seeds...) })
		}
	}
}
