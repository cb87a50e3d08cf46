package nn_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/farandole-ml/farandole/kernels"
	"github.com/farandole-ml/farandole/kernels/nn"
)

// TestHeadRunsInParts has more positions than the output head takes at once, the last part a short one: loss and gradient are
// the sums of those of each row alone.
func TestHeadRunsInParts(t *testing.T) {
	for class := range trainedBits {
		t.Run(class, func(t *testing.T) {
			dev, err := kernels.NewCPU(cpuOf(class))
			require.NoError(t, err)
			defer func() { require.NoError(t, dev.Close()) }()
			runHeadInParts(t, dev, 9)
		})
	}
}

func runHeadInParts(t *testing.T, dev kernels.Device, sequences int) {
	m := newGPT(t, dev, nn.GPTConfig{Vocab: 37, Context: 130, Layers: 1, Heads: 2, Width: 16})
	shake(t, dev, m)
	b := m.RandomBatch(sequences, 130, 9)
	gradient := func(parts ...nn.Batch) (loss float64, g []float32) {
		dev.Zero(m.GradBuffer())
		for _, part := range parts {
			require.NoError(t, m.Forward(part, 0.125))
			m.Backward()
			l, err := m.Loss()
			require.NoError(t, err)
			loss += l
		}
		return loss, download(t, dev, m.GradBuffer())
	}
	loss, whole := gradient(b)
	var each []nn.Batch
	for i := range b.Rows {
		each = append(each, rows(b, i, i+1))
	}
	sum, parts := gradient(each...)
	require.InEpsilon(t, sum, loss, 1e-6)
	for i, want := range parts {
		require.InDelta(t, want, whole[i], 2e-3, "element %d", i)
	}
	require.NoError(t, m.Forward(b, 0))
	evaluated, err := m.Loss()
	require.NoError(t, err)
	require.Equal(t, loss, evaluated)
}
