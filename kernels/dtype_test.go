package kernels_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/farandole-ml/farandole/kernels"
)

func TestParseDType(t *testing.T) {
	sizes := []int{4, 8, 2, 2, 4, 8, 1}
	for i, size := range sizes {
		d := kernels.DType(i)
		require.True(t, d.Valid())
		require.Equal(t, size, d.Size())
		parsed, err := kernels.ParseDType(d.String())
		require.NoError(t, err)
		require.Equal(t, d, parsed)
	}
	require.False(t, kernels.DType(len(sizes)).Valid())
	for name, want := range map[string]kernels.DType{"f32": kernels.Float32, "bf16": kernels.BFloat16, "half": kernels.Float16, "u8": kernels.Uint8} {
		got, err := kernels.ParseDType(name)
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	_, err := kernels.ParseDType("float8")
	require.ErrorContains(t, err, `"float8"`)
	require.ErrorContains(t, err, "bfloat16, float16")
}
