package nn_test

import (
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/farandole-ml/farandole/kernels"
	"github.com/farandole-ml/farandole/kernels/nn"
)

var errNoMemory = errors.New("no memory")

func TestScheduleWarmsUpThenFallsAlongACosine(t *testing.T) {
	s := nn.Schedule{Peak: 1e-3, Floor: 1e-4, Warmup: 10, Steps: 110}
	require.InDelta(t, 1e-4, s.LR(1), 1e-18)
	require.InDelta(t, 5e-4, s.LR(5), 1e-18)
	require.InDelta(t, 1e-3, s.LR(10), 1e-18)
	for step := int64(10); step <= 110; step++ {
		want := 1e-4 + 9e-4*(1+math.Cos(math.Pi*float64(step-10)/100))/2
		require.InDelta(t, want, s.LR(step), 1e-18, "step %d", step)
	}
	require.Equal(t, 1e-4, s.LR(110))
	require.Equal(t, 1e-4, s.LR(1000))

	require.Equal(t, 0.5, nn.Schedule{Peak: 0.5}.LR(1), "no warm-up, no end")
	require.Equal(t, 0.5, nn.Schedule{Peak: 0.5}.LR(1e9))
	require.Equal(t, 0.25, nn.Schedule{Peak: 0.5, Warmup: 20, Steps: 10}.LR(10), "a warm-up longer than the job")
}

// TestAdamWAgreesWithTheFormula runs three updates beside the textbook's in float64.
func TestAdamWAgreesWithTheFormula(t *testing.T) {
	dev := kernels.NewReference()
	m := newMLP(t, dev, tinyMLP)
	shake(t, dev, m)
	const lr, beta1, beta2, decay, clip = 0.01, 0.8, 0.9, 0.25, 0.5
	o, err := nn.NewAdamW(dev, m, nn.Hyper{Schedule: nn.Schedule{Peak: lr}, Beta1: beta1, Beta2: beta2, Decay: decay, Clip: clip})
	require.NoError(t, err)

	type scalar struct{ p, g, m, v, decay float64 }
	var want []scalar
	for _, tensor := range m.Params() {
		for _, p := range download(t, dev, tensor.Value) {
			s := scalar{p: float64(p)}
			if strings.HasSuffix(tensor.Name, "weight") {
				s.decay = decay
			}
			want = append(want, s)
		}
	}
	for step := 1; step <= 3; step++ {
		g, squares := make([]float32, len(want)), 0.0
		for i := range g {
			g[i] = float32(math.Sin(float64(i * step)))
			want[i].g = float64(g[i])
			squares += want[i].g * want[i].g
		}
		if step == 3 { // below the bound: not clipped
			for i := range g {
				g[i] /= 100
				want[i].g = float64(g[i])
			}
			squares /= 10000
		}
		dev.Upload(m.GradBuffer(), g)
		norm, err := o.Update(int64(step))
		require.NoError(t, err)
		require.InEpsilon(t, math.Sqrt(squares), norm, 1e-5)
		require.Equal(t, g, download(t, dev, m.GradBuffer()), "the gradient stays")

		factor := min(1, clip/math.Sqrt(squares))
		for i, got := range download(t, dev, m.ParamBuffer()) {
			s := &want[i]
			s.g *= factor
			s.m = beta1*s.m + (1-beta1)*s.g
			s.v = beta2*s.v + (1-beta2)*s.g*s.g
			mh, vh := s.m/(1-math.Pow(beta1, float64(step))), s.v/(1-math.Pow(beta2, float64(step)))
			s.p -= lr * (mh/(math.Sqrt(vh)+1e-8) + s.decay*s.p)
			require.InDelta(t, s.p, got, 1e-6, "step %d element %d", step, i)
		}
	}
}

func TestGenerate(t *testing.T) {
	dev := kernels.NewReference()
	m := newGPT(t, dev, tinyGPT)
	shake(t, dev, m)
	prompt := []int32{1, 2, 3}
	gen := func(s nn.Sampling) []int32 {
		out, err := m.Generate(prompt, 12, s) // runs past the context of 6
		require.NoError(t, err)
		require.Len(t, out, 12)
		return out
	}
	greedy := gen(nn.Sampling{})
	require.Equal(t, greedy, gen(nn.Sampling{Seed: 3}), "greedy needs no seed")
	require.Equal(t, greedy, gen(nn.Sampling{Temperature: 5, TopK: 1}), "one candidate is greedy")
	hot := gen(nn.Sampling{Seed: 3, Temperature: 5})
	require.Equal(t, hot, gen(nn.Sampling{Seed: 3, Temperature: 5}))
	require.NotEqual(t, hot, gen(nn.Sampling{Seed: 4, Temperature: 5}))

	_, err := m.Generate(nil, 1, nn.Sampling{})
	require.ErrorIs(t, err, nn.ErrBatch)
	_, err = m.Generate([]int32{11}, 1, nn.Sampling{})
	require.ErrorIs(t, err, nn.ErrBatch)

	// The first token is the one that Forward finds most likely: its loss is the smallest.
	losses := map[int32]float64{}
	for tok := range int32(tinyGPT.Vocab) {
		require.NoError(t, m.Forward(nn.Batch{Rows: 1, Seq: 3, Tokens: prompt, Targets: []int32{-1, -1, tok}}, 0))
		losses[tok], err = m.Loss()
		require.NoError(t, err)
	}
	for tok, loss := range losses {
		require.LessOrEqual(t, losses[greedy[0]], loss, "token %d", tok)
	}
}

func TestClassify(t *testing.T) {
	dev := kernels.NewReference()
	m := newMLP(t, dev, tinyMLP)
	b := m.RandomBatch(6, 1, 2)
	classes := make([]int, 6)
	require.NoError(t, m.Classify(classes, b.Inputs))
	for i, class := range classes {
		one := rows(b, i, i+1)
		losses := make([]float64, 4)
		for c := range losses {
			one.Targets = []int32{int32(c)}
			require.NoError(t, m.Forward(one, 0))
			var err error
			losses[c], err = m.Loss()
			require.NoError(t, err)
		}
		for c := range losses {
			require.LessOrEqual(t, losses[class], losses[c])
		}
	}
	require.ErrorIs(t, m.Classify(classes, b.Inputs[1:]), nn.ErrBatch)
}
