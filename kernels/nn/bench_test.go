package nn_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/farandole-ml/farandole/kernels"
	"github.com/farandole-ml/farandole/kernels/nn"
)

// BenchmarkGradient is one shard: forward and backward. tokens/s counts positions, for an MLP rows.
func BenchmarkGradient(b *testing.B) {
	for _, c := range []struct {
		name      string
		rows, seq int
	}{{"small", 2, 64}, {"small", 16, 64}, {"gpt2-6x384", 4, 64}, {"mlp", 16, 1}, {"mlp", 128, 1}} {
		b.Run(c.name, func(b *testing.B) {
			dev, err := kernels.NewCPU(kernels.Config{})
			require.NoError(b, err)
			defer func() { _ = dev.Close() }()
			m, err := nn.New(dev, c.name)
			require.NoError(b, err)
			m.Init(1)
			batch := m.RandomBatch(c.rows, c.seq, 1)
			b.ReportAllocs()
			for b.Loop() {
				require.NoError(b, m.Forward(batch, 1))
				m.Backward()
				_, err := m.Loss()
				require.NoError(b, err)
			}
			seconds := b.Elapsed().Seconds() / float64(b.N)
			b.ReportMetric(m.Flops(c.rows, c.seq)/seconds/1e9, "GF/s")
			b.ReportMetric(float64(c.rows*c.seq)/seconds, "tokens/s")
		})
	}
}
