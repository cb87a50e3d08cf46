//go:build cuda

package cuda

import (
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/farandole-ml/farandole/kernels"
	"github.com/farandole-ml/farandole/kernels/kernelstest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// opened is a GPU until the test ends.
func opened(t testing.TB, cfg kernels.Config) *device {
	t.Helper()
	d, err := kernels.Open("cuda", cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, d.Close()) })
	return d.(*device)
}

func newDevice(t testing.TB) *device {
	t.Helper()
	return opened(t, kernels.Config{})
}

func TestConformance(t *testing.T) {
	kernelstest.Run(t, func(t testing.TB) kernels.Device { return newDevice(t) })
}

// TestEqualBits is the promise of class f32: the bits of the reference.
func TestEqualBits(t *testing.T) {
	seeds := []uint64{0, 1, 2, 3, 4, 5, 6, 7}
	if testing.Short() {
		seeds = seeds[:2]
	}
	kernelstest.EqualBits(t, kernels.NewReference(), newDevice(t), 70, seeds...)
}
