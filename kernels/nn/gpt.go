package nn

import (
	"fmt"
	"math"

	"github.com/farandole-ml/farandole/kernels"
)

// GPTConfig is the size of a GPT-2 (Radford et al. 2019).
type GPTConfig struct {
	Vocab   int // number of tokens
	Context int // longest sequence
	Layers  int
	Heads   int
	Width   int // of the residual stream; a multiple of Heads
}

func (c GPTConfig) validate() error {
	if c.Vocab < 1 || c.Context < 1 || c.Layers < 1 || c.Heads < 1 || c.Width < 1 {
		return fmt.Errorf("nn: every size of a GPT must be at least 1: %+v", c)
	}
	if c.Width%c.Heads != 0 {
		return fmt.Errorf("nn: width %d is no multiple of %d heads", c.Width, c.Heads)
	}
	return nil
}

// GPT is a pre-norm transformer with learned positions, a GELU MLP of four times the width and an output head that
// shares its matrix with the token embedding. Tensors bear Hugging Face's GPT-2 names; its Conv1D matrices
// are stored transposed, as [out, in].
type GPT struct {
	*params
	cfg GPTConfig

	wte, wpe   pair
	lnfG, lnfB pair
	blocks     []block

	acts      arena
	ints      kernels.Ints // room for tokens and targets
	run       gptRun
	recompute bool // see Recompute
}

// block is the parameters of one layer.
type block struct {
	ln1G, ln1B, qkvW, qkvB, projW, projB pair
	ln2G, ln2B, fcW, fcB, outW, outB     pair
}

// NewGPT allocates a GPT on dev. Its parameters are zero until Init.
func NewGPT(dev kernels.Device, cfg GPTConfig) (*GPT, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	p, err := newParams(dev, cfg.specs())
	if err != nil {
		return nil, err
	}
	m := &GPT{
		params: p, cfg: cfg,
		wte: p.of("wte.weight"), wpe: p.of("wpe.weight"),
		lnfG: p.of("ln_f.weight"), lnfB: p.of("ln_f.bias"),
		acts: arena{dev: dev},
	}
	for l := range cfg.Layers {
		of := func(name string) pair { return p.of(fmt.Sprintf("h.%d.%s", l, name)) }
		m.blocks = append(m.blocks, block{
			ln1G: of("ln_1.weight"), ln1B: of("ln_1.bias"),
			qkvW: of("attn.c_attn.weight"), qkvB: of("attn.c_attn.bias"),
			projW: of("attn.c_proj.weight"), projB: of("attn.c_proj.bias"),
			ln2G: of("ln_2.weight"), ln2B: of("ln_2.bias"),
			fcW: of("mlp.c_fc.weight"), fcB: of("mlp.c_fc.bias"),
			outW: of("mlp.c_proj.weight"), outB: of("mlp.c_proj.bias"),
		})
	}
	return m, nil
}

// Standard deviations of GPT-2's initialisation, and the smallest width that they were made for.
const (
	initStd   = 0.02
	initWidth = 768
)

// specs declares the tensors with GPT-2's initialisation: normals of 0.02, those that write to the residual
// stream divided by √(2·layers), biases 0, norms 1. In models narrower than GPT-2 the matrices of the layers grow as
// 1/√width: with 0.02 attention is near uniform there, and takes twice the steps to leave the bigrams behind.
func (c GPTConfig) specs() []spec {
	w := c.Width
	matrix := initStd * math.Sqrt(max(1, initWidth/float64(w))) // a correctly rounded root: equal everywhere
	std, residual := float32(matrix), float32(matrix/math.Sqrt(float64(2*c.Layers)))
	specs := []spec{
		{name: "wte.weight", shape: []int{c.Vocab, w}, std: initStd},
		{name: "wpe.weight", shape: []int{c.Context, w}, std: initStd},
	}
	for l := range c.Layers {
		h := fmt.Sprintf("h.%d.", l)
		specs = append(specs,
			spec{name: h + "ln_1.weight", shape: []int{w}, fill: 1, stage: l + 1},
			spec{name: h + "ln_1.bias", shape: []int{w}, stage: l + 1},
			spec{name: h + "attn.c_attn.weight", shape: []int{3 * w, w}, transposed: true, std: std, stage: l + 1},
			spec{name: h + "attn.c_attn.bias", shape: []int{3 * w}, stage: l + 1},
			spec{name: h + "attn.c_proj.weight", shape: []int{w, w}, transposed: true, std: residual, stage: l + 1},
			spec{name: h + "attn.c_proj.bias", shape: []int{w}, stage: l + 1},
			spec{name: h + "ln_2.weight", shape: []int{w}, fill: 1, stage: l + 1},
			spec{name: h + "ln_2.bias", shape: []int{w}, stage: l + 1},
			spec{name: h + "mlp.c_fc.weight", shape: []int{4 * w, w}, transposed: true, std: std, stage: l + 1},
			spec{name: h + "mlp.c_fc.bias", shape: []int{4 * w}, stage: l + 1},
			spec{name: h + "mlp.c_proj.weight", shape: []int{w, 4 * w}, transposed: true, std: residual, stage: l + 1},
			spec{name: h + "mlp.c_proj.bias", shape: []int{w}, stage: l + 1},
		)
	}
	return append(specs,
		spec{name: "ln_f.weight", shape: []int{w}, fill: 1, stage: c.Layers + 1},
		spec{name: "ln_f.bias", shape: []int{w}, stage: c.Layers + 1},
	)
}

// Params is the number of parameters.
func (c GPTConfig) Params() int {
	n := 0
	for _, s := range c.specs() {
		n += s.len()
	}
	return n
}

// Config is the model's size.
func (m *GPT) Config() GPTConfig { return m.cfg }

// Program names the model's size.
func (m *GPT) Program() string {
	c := m.cfg
	return fmt.Sprintf("gpt %dx%d heads %d context %d vocab %d", c.Layers, c.Width, c.Heads, c.Context, c.Vocab)
}

// Flops estimates one forward and backward pass. The position table multiplies nothing; the two products of causal
// attention are counted over the half that is needed.
func (m *GPT) Flops(rows, seq int) float64 {
	positions := float64(rows) * float64(seq)
	weights := float64(m.matrixWeights() - m.wpe.v.Len())
	attention := float64(m.cfg.Layers) * float64(m.cfg.Width) * float64(seq)
	return 6 * positions * (weights + attention)
}

// RandomBatch is a batch of random tokens that predict random tokens.
func (m *GPT) RandomBatch(rows, seq int, seed uint64) Batch {
	b := Batch{Rows: rows, Seq: seq, Tokens: make([]int32, rows*seq), Targets: make([]int32, rows*seq)}
	s := streamOf(seed, "batch")
	for i := range b.Tokens {
		b.Tokens[i] = int32(s.at(uint64(2*i)) % uint64(m.cfg.Vocab))
		b.Targets[i] = int32(s.at(uint64(2*i+1)) % uint64(m.cfg.Vocab))
	}
	return b
}
