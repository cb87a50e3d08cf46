package nn

import (
	"fmt"
	"math"
	"slices"
)

// Sampling says how Generate picks the next token.
type Sampling struct {
	Seed        uint64
	Temperature float64 // divides the logits; zero takes the most likely token
	TopK        int     // only the k most likely tokens; zero for all
}

// Generate continues prompt by n tokens and gives the new ones. Each token runs the model over what precedes it,
// at most a context's length: the device has no operation for a cache of keys and values.
// The most likely tokens are the same on every machine; samples use math.Exp, whose last bit is not.
func (m *GPT) Generate(prompt []int32, n int, s Sampling) ([]int32, error) {
	if len(prompt) == 0 {
		return nil, fmt.Errorf("%w: an empty prompt", ErrBatch)
	}
	all := slices.Clone(prompt)
	logits := make([]float32, m.cfg.Vocab)
	draws := streamOf(s.Seed, "sample")
	for i := range n {
		window := all[max(0, len(all)-m.cfg.Context):]
		if err := m.Logits(logits, window); err != nil {
			return nil, err
		}
		u := float64(draws.at(uint64(i))>>11) / (1 << 53)
		all = append(all, pick(logits, s, u))
	}
	return all[len(prompt):], nil
}

// Logits sets logits, one for each token of the vocabulary, to those of the token after window.
func (m *GPT) Logits(logits []float32, window []int32) error {
	m.run.pending, m.run.computed = false, false
	t := len(window)
	if t < 1 || t > m.cfg.Context || len(logits) != m.cfg.Vocab {
		return fmt.Errorf("%w: %d tokens and %d logits, context %d and vocabulary %d", ErrBatch, t, len(logits), m.cfg.Context, m.cfg.Vocab)
	}
	for i, tok := range window {
		if tok < 0 || int(tok) >= m.cfg.Vocab {
			return fmt.Errorf("%w: token %d at %d, vocabulary %d", ErrBatch, tok, i, m.cfg.Vocab)
		}
	}
	if err := m.shape(1, t, false); err != nil {
		return err
	}
	m.trunk(window)
	c, v := m.cfg.Width, m.cfg.Vocab
	out := m.run.logits.Slice(0, v)
	m.dev.Linear(out, m.run.lnf.Slice((t-1)*c, c), m.wte.v, nil, 1, v, c)
	return m.dev.Download(logits, out)
}

// pick chooses a token by u in [0, 1).
func pick(logits []float32, s Sampling, u float64) int32 {
	best := argmax(logits)
	if s.Temperature <= 0 {
		return int32(best)
	}
	floor := float32(math.Inf(-1))
	if s.TopK > 0 && s.TopK < len(logits) {
		sorted := slices.Clone(logits)
		slices.Sort(sorted)
		floor = sorted[len(sorted)-s.TopK]
	}
	weights := make([]float64, len(logits))
	total := 0.0
	for i, x := range logits {
		if x >= floor {
			weights[i] = math.Exp(float64(x-logits[best]) / s.Temperature)
			total += weights[i]
		}
	}
	u *= total
	for i, w := range weights {
		if u -= w; u < 0 {
			return int32(i)
		}
	}
	return int32(best) // rounding left nothing
}
