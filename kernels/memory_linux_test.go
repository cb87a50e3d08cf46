package kernels_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/farandole-ml/farandole/kernels"
)

// TestMemoryThatIsNotThere would end the process: Go has no error for it.
func TestMemoryThatIsNotThere(t *testing.T) {
	d := newCPU(t, "go", 1)
	_, err := d.Alloc(1 << 44)
	require.ErrorContains(t, err, "65536.0 GiB of memory are wanted, and this machine has")
	require.ErrorContains(t, err, "make the model, the batch or the shape smaller")
	require.Error(t, kernels.CheckRoom(1<<44))
	require.NoError(t, kernels.CheckRoom(1<<20))
}

// TestMemoryThatWasPromised asks again and again for what nobody touches: each piece would fit.
func TestMemoryThatWasPromised(t *testing.T) {
	if testing.Short() {
		t.Skip("the race detector and sanitizers touch what they are given")
	}
	d := newCPU(t, "go", 1)
	var kept []kernels.Buffer
	for range 4096 {
		b, err := d.Alloc(1 << 30 / 4)
		if err != nil {
			require.ErrorContains(t, err, "1.0 GiB of memory are wanted")
			require.NotEmpty(t, kept)
			clear(kept)
			_, err = d.Alloc(1 << 30 / 4)
			require.NoError(t, err, "what was dropped is there again")
			return
		}
		kept = append(kept, b)
	}
	t.Fatalf("%d GiB were given", len(kept))
}
