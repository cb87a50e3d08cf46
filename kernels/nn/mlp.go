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
	classifier
	cfg    MLPConfig
	layers []mlpLayer
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
	m := &MLP{cfg: cfg}
	m.classifier = classifier{params: p, net: m, inputs: cfg.Widths[0], classes: cfg.Widths[len(cfg.Widths)-1], acts: arena{dev: dev}}
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

func (m *MLP) shape(a *arena, in kernels.Buffer, rows int) kernels.Buffer {
	x := in
	for i := range m.layers {
		l := &m.layers[i]
		l.x, l.out = x, a.take(rows*m.cfg.Widths[i+1])
		if i+1 < len(m.layers) {
			x = a.take(rows * m.cfg.Widths[i+1])
		}
	}
	return m.layers[len(m.layers)-1].out
}

func (m *MLP) shapeBackward(a *arena, rows int) {
	for i := range m.layers[1:] {
		n := rows * m.cfg.Widths[i+1]
		m.layers[i+1].dx, m.layers[i+1].dpre = a.take(n), a.take(n)
	}
}

func (m *MLP) forward(rows int) {
	for i := range m.layers {
		l := &m.layers[i]
		m.dev.Linear(l.out, l.x, l.w.v, l.b.v, rows, m.cfg.Widths[i+1], m.cfg.Widths[i])
		if i+1 < len(m.layers) {
			m.dev.ReLU(m.layers[i+1].x, l.out)
		}
	}
}

func (m *MLP) backward(rows int) {
	dout := m.logits
	for i := len(m.layers) - 1; i >= 0; i-- {
		l := &m.layers[i]
		m.dev.LinearBackward(l.dx, l.w.g, l.b.g, dout, l.x, l.w.v, rows, m.cfg.Widths[i+1], m.cfg.Widths[i])
		if i > 0 {
			m.finished(i)
			m.dev.ReLUBackward(l.dpre, l.dx, m.layers[i-1].out)
			dout = l.dpre
		}
	}
}
