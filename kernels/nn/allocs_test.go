//go:build !asan

package nn_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/farandole-ml/farandole/kernels"
	"github.com/farandole-ml/farandole/kernels/nn"
)

// Under the address sanitizer the compiler moves more variables to the heap, see kernels/reduce_allocs_test.go.

// TestStepAllocatesNothing runs steps of every model once their memory is planned.
func TestStepAllocatesNothing(t *testing.T) {
	dev, err := kernels.NewCPU(kernels.Config{Threads: 2})
	require.NoError(t, err)
	defer func() { require.NoError(t, dev.Close()) }()
	if dev.Name() == "cpu go, 2 threads" {
		t.Skip("plain Go has temporary rows")
	}
	for name, c := range models(t, dev) {
		t.Run(name, func(t *testing.T) {
			o, err := nn.NewAdamW(dev, c.model, nn.Hyper{Schedule: nn.Schedule{Peak: 0.01}})
			require.NoError(t, err)
			b := c.model.RandomBatch(5, c.seq, 1)
			at := int64(0)
			step := func() {
				at++
				dev.Zero(c.model.GradBuffer())
				if c.model.Forward(b, 1) != nil {
					t.Fail()
				}
				c.model.Backward()
				_, lossErr := c.model.Loss()
				if _, err := o.Update(at); err != nil || lossErr != nil {
					t.Fail()
				}
			}
			step()
			require.Zero(t, testing.AllocsPerRun(20, step))
		})
	}
}
