//go:build cuda

package nn_test

import (
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
