package nn_test

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/farandole-ml/farandole/kernels"
	"github.com/farandole-ml/farandole/kernels/nn"
)

func TestBadBatchesAreErrors(t *testing.T) {
	dev := kernels.NewReference()
	g, m := newGPT(t, dev, tinyGPT), newMLP(t, dev, tinyMLP)
	for name, c := range map[string]struct {
		model nn.Model
		spoil func(*nn.Batch)
	}{
		"no rows":           {g, func(b *nn.Batch) { b.Rows = 0 }},
		"no positions":      {g, func(b *nn.Batch) { b.Seq = 0 }},
		"beyond context":    {g, func(b *nn.Batch) { *b = g.RandomBatch(2, tinyGPT.Context+1, 1) }},
		"few tokens":        {g, func(b *nn.Batch) { b.Tokens = b.Tokens[1:] }},
		"few targets":       {g, func(b *nn.Batch) { b.Targets = b.Targets[1:] }},
		"token too large":   {g, func(b *nn.Batch) { b.Tokens[3] = 11 }},
		"token negative":    {g, func(b *nn.Batch) { b.Tokens[3] = -1 }},
		"target too large":  {g, func(b *nn.Batch) { b.Targets[3] = 11 }},
		"mlp no rows":       {m, func(b *nn.Batch) { b.Rows = 0 }},
		"mlp few inputs":    {m, func(b *nn.Batch) { b.Inputs = b.Inputs[1:] }},
		"mlp few targets":   {m, func(b *nn.Batch) { b.Targets = b.Targets[1:] }},
		"mlp unknown class": {m, func(b *nn.Batch) { b.Targets[0] = 4 }},
	} {
		t.Run(name, func(t *testing.T) {
			b := c.model.RandomBatch(2, 4, 1)
			require.NoError(t, c.model.Forward(b, 0))
			c.spoil(&b)
			require.ErrorIs(t, c.model.Forward(b, 1), nn.ErrBatch)
			require.Panics(t, c.model.Backward)
		})
	}
}

func TestBackwardNeedsAForwardWithAScale(t *testing.T) {
	dev := kernels.NewReference()
	for name, c := range models(t, dev) {
		t.Run(name, func(t *testing.T) {
			require.Panics(t, c.model.Backward)
			require.Panics(t, func() { _, _ = c.model.Loss() })
			b := c.model.RandomBatch(2, c.seq, 1)
			require.NoError(t, c.model.Forward(b, 0))
			require.Panics(t, c.model.Backward)
			require.NoError(t, c.model.Forward(b, 1))
			c.model.Backward()
			require.Panics(t, c.model.Backward, "twice")
		})
	}
}

func TestBadConfigsAreErrors(t *testing.T) {
	dev := kernels.NewReference()
	for _, cfg := range []nn.GPTConfig{
		{},
		{Vocab: 10, Context: 4, Layers: 1, Heads: 3, Width: 8},
		{Vocab: 10, Context: 4, Layers: -1, Heads: 2, Width: 8},
	} {
		_, err := nn.NewGPT(dev, cfg)
		require.Error(t, err, "%+v", cfg)
	}
	for _, widths := range [][]int{nil, {3}, {3, 0}, {3, -1, 2}} {
		_, err := nn.NewMLP(dev, nn.MLPConfig{Widths: widths})
		require.Error(t, err, "%v", widths)
	}
	for _, cfg := range []nn.CNNConfig{
		{},
		{Height: 4, Width: 4, Channels: 1, Classes: 2},
		{Height: 4, Width: 4, Channels: 1, Classes: 2, Filters: []int{3, 0}},
		{Height: 4, Width: 3, Channels: 1, Classes: 2, Filters: []int{3, 3}},
	} {
		_, err := nn.NewCNN(dev, cfg)
		require.Error(t, err, "%+v", cfg)
	}
}

func TestNonFiniteGradientsAreNamedAndChangeNothing(t *testing.T) {
	dev := kernels.NewReference()
	m := newMLP(t, dev, tinyMLP)
	o, err := nn.NewAdamW(dev, m, nn.Hyper{Schedule: nn.Schedule{Peak: 1}})
	require.NoError(t, err)
	before := download(t, dev, m.ParamBuffer())
	for _, bad := range []float32{float32(math.NaN()), float32(math.Inf(-1))} {
		g := make([]float32, m.GradBuffer().Len())
		g[7*9+3] = bad
		dev.Upload(m.GradBuffer(), g)
		_, err = o.Update(4)
		require.ErrorIs(t, err, nn.ErrNotFinite)
		require.ErrorContains(t, err, "step 4")
		require.ErrorContains(t, err, "fc.1.weight at 3")
	}
	g := make([]float32, m.GradBuffer().Len())
	g[0] = math.MaxFloat32
	dev.Upload(m.GradBuffer(), g)
	_, err = o.Update(4)
	require.ErrorIs(t, err, nn.ErrNotFinite)
	require.ErrorContains(t, err, "overflows")
	require.Equal(t, before, download(t, dev, m.ParamBuffer()))
}

// noMemory is a device that runs out after so many allocations.
type noMemory struct {
	kernels.Device
	left int
}

func (d *noMemory) Alloc(n int) (kernels.Buffer, error) {
	if d.left--; d.left < 0 {
		return nil, errNoMemory
	}
	return d.Device.Alloc(n)
}

func (d *noMemory) AllocInts(n int) (kernels.Ints, error) {
	if d.left--; d.left < 0 {
		return nil, errNoMemory
	}
	return d.Device.AllocInts(n)
}

func TestNoAllocationAfterTheLargestBatch(t *testing.T) {
	for name, make := range map[string]func(kernels.Device) nn.Model{
		"gpt": func(d kernels.Device) nn.Model { return newGPT(t, d, tinyGPT) },
		"mlp": func(d kernels.Device) nn.Model { return newMLP(t, d, tinyMLP) },
		"cnn": func(d kernels.Device) nn.Model { return newCNN(t, d, tinyCNN) },
	} {
		t.Run(name, func(t *testing.T) {
			dev := &noMemory{kernels.NewReference(), 1 << 30}
			m := make(dev)
			big, small := m.RandomBatch(3, 6, 1), m.RandomBatch(2, 4, 1)
			require.NoError(t, m.Forward(big, 1))
			m.Backward()
			dev.left = 0
			for _, b := range []nn.Batch{small, big, small} {
				require.NoError(t, m.Forward(b, 1))
				m.Backward()
				require.NoError(t, m.Forward(b, 0))
			}
			require.ErrorIs(t, m.Forward(m.RandomBatch(4, 6, 1), 1), errNoMemory)
		})
	}
}

func TestOutOfMemoryIsAnErrorAnywhere(t *testing.T) {
	for left := range 20 {
		dev := &noMemory{kernels.NewReference(), left}
		m, err := nn.NewGPT(dev, tinyGPT)
		if err == nil {
			m.Init(1)
			err = m.Forward(m.RandomBatch(2, 4, 1), 1)
		}
		require.ErrorIs(t, err, errNoMemory)
	}
}
