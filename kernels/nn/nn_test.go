package nn_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/farandole-ml/farandole/kernels"
	"github.com/farandole-ml/farandole/kernels/nn"
)

var tinyGPT = nn.GPTConfig{Vocab: 11, Context: 6, Layers: 2, Heads: 2, Width: 8}

var tinyMLP = nn.MLPConfig{Widths: []int{7, 9, 5, 4}}

// Odd sizes: pooling drops a row and a column, and the second stage's windows reach over every edge.
var tinyCNN = nn.CNNConfig{Height: 5, Width: 7, Channels: 2, Filters: []int{5, 6}, Classes: 4}

func newCNN(t *testing.T, dev kernels.Device, cfg nn.CNNConfig) *nn.CNN {
	t.Helper()
	m, err := nn.NewCNN(dev, cfg)
	require.NoError(t, err)
	m.Init(1)
	return m
}

func newGPT(t *testing.T, dev kernels.Device, cfg nn.GPTConfig) *nn.GPT {
	t.Helper()
	m, err := nn.NewGPT(dev, cfg)
	require.NoError(t, err)
	m.Init(1)
	return m
}

func newMLP(t *testing.T, dev kernels.Device, cfg nn.MLPConfig) *nn.MLP {
	t.Helper()
	m, err := nn.NewMLP(dev, cfg)
	require.NoError(t, err)
	m.Init(1)
	return m
}

func download(t *testing.T, dev kernels.Device, b kernels.Buffer) []float32 {
	t.Helper()
	out := make([]float32, b.Len())
	require.NoError(t, dev.Download(out, b))
	return out
}

// shake replaces all parameters by values of order 0.3, so that every path of the model carries gradient. It gives
// them in float64.
func shake(t *testing.T, dev kernels.Device, m nn.Model) tensors64 {
	t.Helper()
	rng := rand.New(rand.NewPCG(3, 4))
	x := make([]float32, m.ParamBuffer().Len())
	for i := range x {
		x[i] = float32(rng.NormFloat64()) * 0.3
	}
	dev.Upload(m.ParamBuffer(), x)
	p := tensors64{}
	for _, tensor := range m.Params() {
		for _, v := range download(t, dev, tensor.Value) {
			p[tensor.Name] = append(p[tensor.Name], float64(v))
		}
	}
	return p
}

// models are the models in a small size, each with its float64 forward pass.
func models(t *testing.T, dev kernels.Device) map[string]struct {
	model nn.Model
	seq   int
	loss  func(tensors64, nn.Batch) float64
} {
	type row = struct {
		model nn.Model
		seq   int
		loss  func(tensors64, nn.Batch) float64
	}
	return map[string]row{
		"gpt": {newGPT(t, dev, tinyGPT), 5, func(p tensors64, b nn.Batch) float64 { return gpt64(tinyGPT, p, b) }},
		"cnn": {newCNN(t, dev, tinyCNN), 1, func(p tensors64, b nn.Batch) float64 { return cnn64(tinyCNN, p, b) }},
		"mlp": {newMLP(t, dev, tinyMLP), 1, func(p tensors64, b nn.Batch) float64 { return mlp64(tinyMLP.Widths, p, b) }},
	}
}

func TestGradientsAgreeWithFiniteDifferences(t *testing.T) {
	dev := kernels.NewReference()
	for name, c := range models(t, dev) {
		t.Run(name, func(t *testing.T) {
			p := shake(t, dev, c.model)
			b := c.model.RandomBatch(3, c.seq, 7)
			b.Targets[1] = -1 // ignored
			n := float64(len(b.Targets))
			require.NoError(t, c.model.Forward(b, float32(1/n)))
			loss, err := c.model.Loss()
			require.NoError(t, err)
			require.InDelta(t, c.loss(p, b), loss/n, 1e-5)
			c.model.Backward()

			const h = 1e-5
			for _, tensor := range c.model.Params() {
				values, moved := p[tensor.Name], false
				for i, got := range download(t, dev, tensor.Grad) {
					kept := values[i]
					values[i] = kept + h
					up := c.loss(p, b)
					values[i] = kept - h
					down := c.loss(p, b)
					values[i] = kept
					want := (up - down) / (2 * h)
					require.InDelta(t, want, got, 1e-5+1e-4*math.Abs(want), "%s[%d]", tensor.Name, i)
					moved = moved || math.Abs(want) > 1e-4
				}
				require.True(t, moved, "%s has no gradient: the comparison says nothing", tensor.Name)
			}
		})
	}
}

func TestShardGradientsAddUpToTheBatchs(t *testing.T) {
	dev := kernels.NewReference()
	for name, c := range models(t, dev) {
		t.Run(name, func(t *testing.T) {
			shake(t, dev, c.model)
			b := c.model.RandomBatch(5, c.seq, 7)
			scale := float32(1) / float32(len(b.Targets))
			require.NoError(t, c.model.Forward(b, scale))
			wholeLoss, err := c.model.Loss()
			require.NoError(t, err)
			c.model.Backward()
			whole := download(t, dev, c.model.GradBuffer())

			dev.Zero(c.model.GradBuffer())
			var loss float64
			for _, cut := range [][2]int{{0, 2}, {2, 5}} { // of unequal size
				require.NoError(t, c.model.Forward(rows(b, cut[0], cut[1]), scale))
				part, err := c.model.Loss()
				require.NoError(t, err)
				loss += part
				c.model.Backward()
			}
			require.InDelta(t, wholeLoss, loss, 1e-4)
			require.InDeltaSlice(t, whole, download(t, dev, c.model.GradBuffer()), 1e-6)
			require.Greater(t, slices.Max(whole), float32(1e-3))
		})
	}
}

// rows is the part [first, end) of a batch.
func rows(b nn.Batch, first, end int) nn.Batch {
	out := nn.Batch{Rows: end - first, Seq: b.Seq, Targets: b.Targets[first*b.Seq : end*b.Seq]}
	if b.Tokens != nil {
		out.Tokens = b.Tokens[first*b.Seq : end*b.Seq]
	}
	if w := len(b.Inputs) / b.Rows; w > 0 {
		out.Inputs = b.Inputs[first*w : end*w]
	}
	return out
}

func TestLossAtInitIsThatOfAGuess(t *testing.T) {
	dev := kernels.NewReference()
	cfg := nn.GPTConfig{Vocab: 200, Context: 16, Layers: 2, Heads: 2, Width: 32}
	m := newGPT(t, dev, cfg)
	b := m.RandomBatch(2, 16, 1)
	require.NoError(t, m.Forward(b, 0))
	loss, err := m.Loss()
	require.NoError(t, err)
	require.InDelta(t, math.Log(200), loss/32, 0.1)
}

func TestOverfitsOneBatch(t *testing.T) {
	dev := kernels.NewReference()
	for name, c := range models(t, dev) {
		t.Run(name, func(t *testing.T) {
			o, err := nn.NewAdamW(dev, c.model, nn.Hyper{Schedule: nn.Schedule{Peak: 0.03, Warmup: 5, Steps: 120}, Decay: -1})
			require.NoError(t, err)
			b := c.model.RandomBatch(3, c.seq, 9)
			var first, last float64
			for step := int64(1); step <= 120; step++ {
				dev.Zero(c.model.GradBuffer())
				require.NoError(t, c.model.Forward(b, 1/float32(len(b.Targets))))
				last, err = c.model.Loss()
				require.NoError(t, err)
				if step == 1 {
					first = last
				}
				c.model.Backward()
				_, err = o.Update(step)
				require.NoError(t, err)
			}
			require.Less(t, last, first/20)
		})
	}
}

func TestInitDependsOnTheSeedAlone(t *testing.T) {
	dev := kernels.NewReference()
	values := func(seed uint64) []float32 {
		m := newGPT(t, dev, tinyGPT)
		m.Init(99) // whatever was there before
		m.Init(seed)
		return download(t, dev, m.ParamBuffer())
	}
	require.Equal(t, values(5), values(5))
	require.NotEqual(t, values(5), values(6))

	// Bits that must never change: a checkpoint's step 0 is not stored anywhere else.
	m := newGPT(t, dev, tinyGPT)
	m.Init(5)
	var got []uint32
	for _, v := range download(t, dev, m.ParamBuffer())[:4] {
		got = append(got, math.Float32bits(v))
	}
	require.Equal(t, []uint32{0xbbb375c2, 0xb9cab852, 0x3d2523d7, 0xbc2b50a4}, got)
}

func TestInitHasGPT2sSpread(t *testing.T) {
	dev := kernels.NewReference()
	for _, c := range []struct {
		width  int
		matrix float64
	}{{768, 0.02}, {48, 0.08}, {1024, 0.02}} { // 0.08 = 0.02·√(768/48)
		m := newGPT(t, dev, nn.GPTConfig{Vocab: 64, Context: 64, Layers: 2, Heads: 2, Width: c.width})
		for _, tensor := range m.Params() {
			mean, variance := moments(download(t, dev, tensor.Value))
			spread := func(want float64) {
				t.Helper()
				require.InDelta(t, 0, mean, want/20, tensor.Name)
				require.InEpsilon(t, want, math.Sqrt(variance), 0.05, tensor.Name)
			}
			switch tensor.Name {
			case "wte.weight", "wpe.weight":
				spread(0.02)
			case "h.1.attn.c_attn.weight", "h.0.mlp.c_fc.weight":
				spread(c.matrix)
			case "h.0.attn.c_proj.weight", "h.1.mlp.c_proj.weight":
				spread(c.matrix / 2) // √(2·2)
			case "h.0.ln_1.weight", "ln_f.weight":
				require.InDelta(t, 1, mean, 1e-12)
			case "h.0.ln_1.bias", "h.1.mlp.c_fc.bias":
				require.Zero(t, mean)
				require.Zero(t, variance)
			}
		}
	}
}

func moments(x []float32) (mean, variance float64) {
	for _, v := range x {
		mean += float64(v) / float64(len(x))
	}
	for _, v := range x {
		variance += (float64(v) - mean) * (float64(v) - mean) / float64(len(x))
	}
	return mean, variance
}

func TestTensorsFillTheBuffersInOrder(t *testing.T) {
	dev := kernels.NewReference()
	for name, c := range models(t, dev) {
		t.Run(name, func(t *testing.T) {
			x := make([]float32, c.model.ParamBuffer().Len())
			for i := range x {
				x[i] = float32(i)
			}
			dev.Upload(c.model.ParamBuffer(), x)
			dev.Upload(c.model.GradBuffer(), x)
			next, vectors := 0, false
			for _, tensor := range c.model.Params() {
				n := 1
				for _, d := range tensor.Shape {
					n *= d
				}
				require.Equal(t, x[next:next+n], download(t, dev, tensor.Value), tensor.Name)
				require.Equal(t, x[next:next+n], download(t, dev, tensor.Grad), tensor.Name)
				require.Equal(t, len(tensor.Shape) > 1, tensor.Decay, tensor.Name)
				require.False(t, tensor.Decay && vectors, "%s: a matrix after a vector", tensor.Name)
				vectors = vectors || !tensor.Decay
				next += n
			}
			require.Equal(t, len(x), next)
		})
	}
}

func TestGPTHasHuggingFacesTensors(t *testing.T) {
	dev := kernels.NewReference()
	shapes := map[string][]int{}
	for _, tensor := range newGPT(t, dev, tinyGPT).Params() {
		shape := append([]int{}, tensor.Shape...)
		if tensor.Transposed {
			shape[0], shape[1] = shape[1], shape[0]
		}
		shapes[tensor.Name] = shape
	}
	want := map[string][]int{"wte.weight": {11, 8}, "wpe.weight": {6, 8}, "ln_f.weight": {8}, "ln_f.bias": {8}}
	for l := range 2 {
		for name, shape := range map[string][]int{
			"ln_1.weight": {8}, "ln_1.bias": {8}, "ln_2.weight": {8}, "ln_2.bias": {8},
			"attn.c_attn.weight": {8, 24}, "attn.c_attn.bias": {24},
			"attn.c_proj.weight": {8, 8}, "attn.c_proj.bias": {8},
			"mlp.c_fc.weight": {8, 32}, "mlp.c_fc.bias": {32},
			"mlp.c_proj.weight": {32, 8}, "mlp.c_proj.bias": {8},
		} {
			want[fmt.Sprintf("h.%d.%s", l, name)] = shape
		}
	}
	require.Equal(t, want, shapes)
}

func TestNamedSizes(t *testing.T) {
	for name, want := range map[string]int{"gpt2-124m": 124_439_808, "gpt2-350m": 354_823_168, "gpt2-774m": 774_030_080, "gpt2-1558m": 1_557_611_200} {
		cfg, err := nn.ConfigByName(name)
		require.NoError(t, err)
		require.Equal(t, want, cfg.Params(), name)
	}
	dev := kernels.NewReference()
	for _, name := range []string{"tiny", "mlp-tiny", "cnn-tiny"} {
		m, err := nn.New(dev, name)
		require.NoError(t, err)
		m.Init(1)
		b := m.RandomBatch(2, 8, 1)
		require.NoError(t, m.Forward(b, 1))
		m.Backward()
		require.Positive(t, m.Flops(2, 8))
	}
	_, err := nn.New(dev, "gpt5")
	require.ErrorContains(t, err, "gpt2-124m")
	_, err = nn.MLPByName("tiny")
	require.ErrorContains(t, err, "mlp-wide")
	_, err = nn.CNNByName("tiny")
	require.ErrorContains(t, err, "cnn-tiny")
}

// Backward tells of gradients only when they are what they are at the end, and of every stage but the last.
func TestOnFinal(t *testing.T) {
	dev := kernels.NewReference()
	gpt, err := nn.NewGPT(dev, nn.GPTConfig{Vocab: 11, Context: 6, Layers: 3, Heads: 2, Width: 8})
	require.NoError(t, err)
	mlp, err := nn.NewMLP(dev, nn.MLPConfig{Widths: []int{5, 7, 6, 3}})
	require.NoError(t, err)
	for name, m := range map[string]nn.Model{"gpt": gpt, "mlp": mlp, "cnn": newCNN(t, dev, tinyCNN)} {
		t.Run(name, func(t *testing.T) {
			m.Init(1)
			seen := map[int]map[string][]float32{}
			var stages []int
			m.OnFinal(func(stage int) {
				stages = append(stages, stage)
				seen[stage] = map[string][]float32{}
				for _, p := range m.Params() {
					if p.Stage >= stage {
						seen[stage][p.Name] = slices.Clone(dev.Host(p.Grad))
					}
				}
			})
			require.NoError(t, m.Forward(m.RandomBatch(2, 6, 3), 0.1))
			m.Backward()
			top := 0
			for _, p := range m.Params() {
				top = max(top, p.Stage)
			}
			var want []int
			for s := top; s > 0; s-- {
				want = append(want, s)
			}
			require.Equal(t, want, stages)
			for stage, grads := range seen {
				require.NotEmpty(t, grads)
				for _, p := range m.Params() {
					if g, ok := grads[p.Name]; ok {
						require.Equal(t, dev.Host(p.Grad), g, "%s told at stage %d", p.Name, stage)
					}
				}
			}
			m.OnFinal(nil)
			require.NoError(t, m.Forward(m.RandomBatch(2, 6, 3), 0.1))
			m.Backward()
			require.Len(t, stages, top)
		})
	}
}
