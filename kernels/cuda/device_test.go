//go:build cuda

package cuda

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/farandole-ml/farandole/kernels"
)

func TestAdd(t *testing.T) {
	d, err := kernels.Open("cuda", kernels.Config{})
	require.NoError(t, err)
	defer func() { require.NoError(t, d.Close()) }()
	const n = 1000
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(i)
	}
	a, err := d.Alloc(n)
	require.NoError(t, err)
	b, err := d.Alloc(n)
	require.NoError(t, err)
	d.Upload(a, x)
	d.Add(b, a, b)
	d.Add(b, a, b)
	y := make([]float32, n)
	require.NoError(t, d.Download(y, b))
	for i := range x {
		require.Equal(t, 2*x[i], y[i])
	}
}
