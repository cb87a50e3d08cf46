package nn

import (
	"fmt"
	"math"

	"github.com/farandole-ml/farandole/kernels"
)

// MLPConfig is the size of a multi-layer perceptron.
type MLPConfig struct {
	// Widths goes from the input's width over the hidden layers to the number of classes; at least two.
	Widths []int
}

func (c MLPConfig) validate() error {
	if len(c.Widths) < 2 {
		return fmt.Errorf("nn: an MLP needs an input and an output width, not %v", c.Widths)
	}
	for _, w := range c.Widths {
		if w < 1 {
			return fmt.Errorf("nn: every width of an MLP must be at least 1: %v", c.Widths)
		}
	}
	return nil
}

// MLP is a perceptron: linear layers with ReLU between them and a softmax over classes. Its tensors are
// fc.0.weight [out, in], fc.0.bias, and so on.
type MLP struct {
	*params
	cfg    MLPConfig
	layers []mlpLayer
	acts   arena

	ints     kernels.Ints // room for targets
	rows     int          // of the current shape
	grads    bool         // the backward buffers are there
	pending  bool         // Forward ran with a scale, Backward did not yet
	computed bool

	in, losses, sum kernels.Buffer // [rows, widths[0]], [rows], [1]
	targets         kernels.Ints   // [rows]
}

// mlpLayer is one linear layer and its activations.
type mlpLayer struct {
	w, b pair
	x    kernels.Buffer // [rows, in]: its input
	out  kernels.Buffer // [rows, out]; the last layer's holds logits, then their gradient
	dx   kernels.Buffer // [rows, in]; nil for the first: nobody wants the input's gradient
	dpre kernels.Buffer // [rows, in]: dx before the ReLU; nil for the first
}

// NewMLP allocates an MLP on dev. Its parameters are zero until Init.
func NewMLP(dev kernels.Device, cfg MLPConfig) (*MLP, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	p, err := newParams(dev, cfg.specs())
	if err != nil {
		return nil, err
	}
	m := &MLP{params: p, cfg: cfg, acts: arena{dev: dev}}
	for i := range len(cfg.Widths) - 1 {
		m.layers = append(m.layers, mlpLayer{
			w: p.of(fmt.Sprintf("fc.%d.weight", i)),
			b: p.of(fmt.Sprintf("fc.%d.bias", i)),
		})
	}
	return m, nil
}

// specs declares the tensors with the initialisation of He et al. 2015, normals of √(2/in), biases 0.
func (c MLPConfig) specs() []spec {
	var specs []spec
	for i := range len(c.Widths) - 1 {
		in, out := c.Widths[i], c.Widths[i+1]
		specs = append(specs,
			spec{name: fmt.Sprintf("fc.%d.weight", i), shape: []int{out, in}, std: float32(math.Sqrt(2 / float64(in))), stage: i},
			spec{name: fmt.Sprintf("fc.%d.bias", i), shape: []int{out}, stage: i})
	}
	return specs
}

// Program names the model's size.
func (m *MLP) Program() string { return fmt.Sprintf("mlp %v", m.cfg.Widths) }

// Flops estimates one forward and backward pass. The gradient of the input is not computed.
func (m *MLP) Flops(rows, _ int) float64 {
	first := float64(m.layers[0].w.v.Len())
	return float64(rows) * (6*float64(m.matrixWeights()) - 2*first)
}

// RandomBatch is a batch of normal inputs of random classes. seq is ignored.
func (m *MLP) RandomBatch(rows, _ int, seed uint64) Batch {
	w := m.cfg.Widths
	b := Batch{Rows: rows, Seq: 1, Inputs: make([]float32, rows*w[0]), Targets: make([]int32, rows)}
	streamOf(seed, "inputs").fillNormal(b.Inputs, 1)
	s := streamOf(seed, "targets")
	for i := range b.Targets {
		b.Targets[i] = int32(s.at(uint64(i)) % uint64(w[len(w)-1]))
	}
	return b
}

// shape makes the activations those of so many rows; grads asks for the backward pass's as well.
func (m *MLP) shape(rows int, grads bool) error {
	if m.rows == rows && (m.grads || !grads) {
		return nil
	}
	m.rows = 0 // not usable should an allocation fail
	a := &m.acts
	a.begin()
	m.in, m.losses, m.sum = a.take(rows*m.cfg.Widths[0]), a.take(rows), a.take(1)
	x := m.in
	for i := range m.layers {
		l := &m.layers[i]
		l.x, l.out = x, a.take(rows*m.cfg.Widths[i+1])
		if i+1 < len(m.layers) {
			x = a.take(rows * m.cfg.Widths[i+1])
		}
	}
	if grads { // last, so that their absence moves nothing
		for i := range m.layers[1:] {
			n := rows * m.cfg.Widths[i+1]
			m.layers[i+1].dx, m.layers[i+1].dpre = a.take(n), a.take(n)
		}
	}
	if a.err != nil {
		return a.err
	}
	if m.ints == nil || m.ints.Len() < rows {
		var err error
		if m.ints, err = m.dev.AllocInts(rows); err != nil {
			return fmt.Errorf("nn: %d labels: %w", rows, err)
		}
	}
	m.targets = m.ints.Slice(0, rows)
	m.rows, m.grads = rows, grads
	return nil
}

// Forward computes the losses of b. See Model.
func (m *MLP) Forward(b Batch, scale float32) error {
	m.pending, m.computed = false, false
	if err := m.check(b); err != nil {
		return err
	}
	if err := m.shape(b.Rows, scale != 0); err != nil {
		return err
	}
	m.dev.UploadInts(m.targets, b.Targets)
	m.logits(b.Inputs)
	last, classes := m.layers[len(m.layers)-1], m.cfg.Widths[len(m.cfg.Widths)-1]
	m.dev.CrossEntropy(m.losses, last.out, m.targets, b.Rows, classes, scale)
	m.dev.Sum(m.sum, m.losses)
	m.pending, m.computed = scale != 0, true
	return nil
}

func (m *MLP) check(b Batch) error {
	in, classes := m.cfg.Widths[0], m.cfg.Widths[len(m.cfg.Widths)-1]
	if b.Rows < 1 || len(b.Inputs) != b.Rows*in || len(b.Targets) != b.Rows {
		return fmt.Errorf("%w: %d rows with %d inputs and %d targets, %d inputs a row", ErrBatch, b.Rows, len(b.Inputs), len(b.Targets), in)
	}
	for i, t := range b.Targets {
		if int(t) >= classes {
			return fmt.Errorf("%w: target %d at %d, %d classes", ErrBatch, t, i, classes)
		}
	}
	return nil
}

// logits runs the layers over inputs; the activations have their shape.
func (m *MLP) logits(inputs []float32) {
	m.dev.Upload(m.in, inputs)
	for i := range m.layers {
		l := &m.layers[i]
		m.dev.Linear(l.out, l.x, l.w.v, l.b.v, m.rows, m.cfg.Widths[i+1], m.cfg.Widths[i])
		if i+1 < len(m.layers) {
			m.dev.ReLU(m.layers[i+1].x, l.out)
		}
	}
}

// Backward adds the gradient of the last Forward.
func (m *MLP) Backward() {
	if !m.pending {
		panic("nn: Backward without a Forward that had a scale")
	}
	m.pending = false
	dout := m.layers[len(m.layers)-1].out
	for i := len(m.layers) - 1; i >= 0; i-- {
		l := &m.layers[i]
		m.dev.LinearBackward(l.dx, l.w.g, l.b.g, dout, l.x, l.w.v, m.rows, m.cfg.Widths[i+1], m.cfg.Widths[i])
		if i > 0 {
			m.finished(i)
			m.dev.ReLUBackward(l.dpre, l.dx, m.layers[i-1].out)
			dout = l.dpre
		}
	}
}

// Loss is the sum of the last Forward's losses.
func (m *MLP) Loss() (float64, error) {
	if !m.computed {
		panic("nn: Loss without a Forward")
	}
	return scalar(m.dev, m.sum)
}

// Classify gives the most likely class of each of rows inputs. dst has a place for each.
func (m *MLP) Classify(dst []int, inputs []float32) error {
	rows, classes := len(dst), m.cfg.Widths[len(m.cfg.Widths)-1]
	if rows < 1 || len(inputs) != rows*m.cfg.Widths[0] {
		return fmt.Errorf("%w: %d inputs for %d rows of %d", ErrBatch, len(inputs), rows, m.cfg.Widths[0])
	}
	m.pending, m.computed = false, false
	if err := m.shape(rows, false); err != nil {
		return err
	}
	m.logits(inputs)
	out := make([]float32, rows*classes)
	if err := m.dev.Download(out, m.layers[len(m.layers)-1].out); err != nil {
		return err
	}
	for i := range dst {
		dst[i] = argmax(out[i*classes : (i+1)*classes])
	}
	return nil
}

// argmax is the index of the largest value, the first of several.
func argmax(x []float32) int {
	best := 0
	for i, v := range x {
		if v > x[best] {
			best = i
		}
	}
	return best
}
