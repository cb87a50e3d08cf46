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
