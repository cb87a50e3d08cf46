//go:build cuda

package nn_test

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/farandole-ml/farandole/kernels"
	_ "github.com/farandole-ml/farandole/kernels/cuda"
	"github.com/farandole-ml/farandole/kernels/nn"
)

func TestTrainingOnAGPUHasTheSameBits(t *testing.T) {
	gpu, err := kernels.Open("cuda", kernels.Config{})
	require.NoError(t, err)
	defer func() { require.NoError(t, gpu.Close()) }()
	cpu := kernels.NewReference()
	t.Run("gpt", func(t *testing.T) {
		cfg := nn.GPTConfig{Vocab: 131, Context: 20, Layers: 1, Heads: 3, Width: 36}
		requireBits(t, trained(t, cpu, newGPT(t, cpu, cfg), 19), trained(t, gpu, newGPT(t, gpu, cfg), 19))
	})
	t.Run("mlp", func(t *testing.T) {
		cfg := nn.MLPConfig{Widths: []int{67, 45, 10}}
		requireBits(t, trained(t, cpu, newMLP(t, cpu, cfg), 1), trained(t, gpu, newMLP(t, gpu, cfg), 1))
	})
	t.Run("cnn", func(t *testing.T) {
		cfg := nn.CNNConfig{Height: 11, Width: 9, Channels: 2, Filters: []int{17, 9}, Classes: 10}
		requireBits(t, trained(t, cpu, newCNN(t, cpu, cfg), 1), trained(t, gpu, newCNN(t, gpu, cfg), 1))
	})
}

// TestTrainingInBF16OnAGPU: the bits are the GPU's own, and near to those of the CPU; a part of the head is a canonical block.
func TestTrainingInBF16OnAGPU(t *testing.T) {
	cfg := kernels.Config{Precision: kernels.ClassBF16, Threads: 2}
	cpu, err := kernels.NewCPU(cfg)
	require.NoError(t, err)
	defer func() { require.NoError(t, cpu.Close()) }()
	gpu, err := kernels.Open("cuda", cfg)
	require.NoError(t, err)
	defer func() { require.NoError(t, gpu.Close()) }()
	gpt := nn.GPTConfig{Vocab: 131, Context: 20, Layers: 1, Heads: 3, Width: 36}
	want, got := trained(t, cpu, newGPT(t, cpu, gpt), 19), trained(t, gpu, newGPT(t, gpu, gpt), 19)
	requireBits(t, got, trained(t, gpu, newGPT(t, gpu, gpt), 19))
	require.NotEqual(t, want, got)
	const losses = 8
	for i := range losses {
		require.InEpsilon(t, math.Float32frombits(want[i]), math.Float32frombits(got[i]), 2e-3, "loss %d", i)
	}
	t.Run("head", func(t *testing.T) { runHeadInParts(t, gpu, 33) })
}
