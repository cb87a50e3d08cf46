package kernels_test

import (
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/farandole-ml/farandole/kernels"
)

func TestADeviceLeavesTheRunTimeASlot(t *testing.T) {
	had := runtime.GOMAXPROCS(0)
	t.Cleanup(func() { runtime.GOMAXPROCS(had) })

	const all = 40 // more than other tests ask for
	runtime.GOMAXPROCS(all)
	require.Equal(t, all, kernels.Processors())
	newCPU(t, "", all-1)
	require.Equal(t, all, runtime.GOMAXPROCS(0), "one was free")
	for range 2 { // the second device's threads are not one more
		d, err := kernels.NewCPU(kernels.Config{})
		require.NoError(t, err)
		defer d.Close()
		require.Contains(t, d.Name(), "40 threads")
		require.Equal(t, all+1, runtime.GOMAXPROCS(0))
		require.Equal(t, all, kernels.Processors())
	}
	newCPU(t, "", all+2)
	require.Equal(t, all+3, runtime.GOMAXPROCS(0))
	require.Equal(t, all, kernels.Processors())
	runtime.GOMAXPROCS(2)
	require.Equal(t, 2, kernels.Processors(), "the program's own choice counts")
}
