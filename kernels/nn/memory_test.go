package nn_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/farandole-ml/farandole/kernels"
	"github.com/farandole-ml/farandole/kernels/nn"
)

// TestActivationsGrowWithPositionsAlone: neither a matrix of all logits nor one of a sequence's positions by its positions is kept.
func TestActivationsGrowWithPositionsAlone(t *testing.T) {
	cfg := nn.GPTConfig{Vocab: 997, Context: 512, Layers: 2, Heads: 2, Width: 8}
	activations := func(rows, seq int) int {
		dev := &countedMemory{Device: kernels.NewReference()}
		m := newGPT(t, dev, cfg)
		dev.floats = 0
		require.NoError(t, m.Forward(m.RandomBatch(rows, seq, 1), 1))
		m.Backward()
		return dev.floats
	}
	long := activations(1, 512)
	require.Equal(t, long, activations(8, 64), "as many positions in shorter sequences")
	each := (activations(2, 512) - long) / 512
	require.Less(t, each, cfg.Vocab, "a position more has no row of logits")
	require.Positive(t, each)
}

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
