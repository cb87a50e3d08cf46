package kernelstest

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/farandole-ml/farandole/kernels"
)

// Step is a function that calls each operation of a training step on d once, on small buffers of zeros.
func Step(t testing.TB, d kernels.Device) func() {
	t.Helper()
	zeros := func(n int) kernels.Buffer {
		b, err := d.Alloc(n)
		require.NoError(t, err)
		d.Upload(b, make([]float32, n))
		return b
	}
	const rows, c = 32, 48
	x, w, bias, y := zeros(rows*c), zeros(c*c), zeros(c), zeros(rows*c)
	qkv, stats := zeros(3*rows*c), zeros(rows)
	targets, err := d.AllocInts(rows)
	require.NoError(t, err)
	d.UploadInts(targets, make([]int32, rows))
	// One image of rows pixels: its windows' results are as large.
	images := kernels.Window{Images: 1, Height: 4, Width: rows / 4, Channels: c, Rows: 3, Columns: 3, Stride: 1, Pad: 1}
	filters, z := zeros(9*c*c), zeros(rows*c)
	return func() {
		d.Embed(x, w, nil, targets, 1, rows, c)
		d.Conv(y, x, filters, bias, c, images)
		d.ConvBackward(x, filters, bias, y, z, filters, c, images)
		d.MaxPool(y, x, images)
		d.MaxPoolBackward(x, y, z, images)
		d.Linear(y, x, w, bias, rows, c, c)
		d.LinearBackward(x, w, bias, y, x, w, rows, c, c)
		d.Attention(y, qkv, 1, rows, 3, c/3)
		d.AttentionBackward(qkv, y, qkv, 1, rows, 3, c/3)
		d.LayerNorm(y, stats, stats, x, bias, bias, rows, c)
		d.ResidualLayerNorm(z, y, stats, stats, x, y, bias, bias, rows, c)
		d.LayerNormBackward(y, bias, bias, x, x, bias, stats, stats, rows, c)
		d.EmbedBackward(w, nil, x, targets, 1, rows, c)
		d.GELU(y, x)
		d.GELUBackward(x, y, x, x)
		d.CrossEntropy(stats, x, targets, rows, c, 1)
		d.SquareSum(bias.Slice(0, 1), x)
		d.AdamW(x, y, x, x, 1, kernels.AdamW{Step: 1})
	}
}
