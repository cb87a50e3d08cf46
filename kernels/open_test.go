package kernels

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestOpen(t *testing.T) {
	for _, name := range []string{"", "auto", "cpu"} {
		d, err := Open(name, Config{Threads: 1})
		require.NoError(t, err)
		require.Equal(t, ClassF32, d.Class())
		require.NoError(t, d.Close())
	}
	_, err := Open("cuda", Config{})
	require.EqualError(t, err, "device cuda is not in this build: use cpu")
	_, err = Open("tpu", Config{})
	require.EqualError(t, err, `device "tpu" is not known: use auto, cpu or cuda`)
}
