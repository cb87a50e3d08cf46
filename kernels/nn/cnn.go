package nn

import (
	"fmt"
	"math"

	"github.com/farandole-ml/farandole/kernels"
)

// CNNConfig is the size of a small convolutional network.
type CNNConfig struct {
	Height, Width, Channels int   // of the images, which stand row by row with channels last
	Filters                 []int // of each stage; at least one stage
	Classes                 int
}

func (c CNNConfig) validate() error {
	if c.Height < 1 || c.Width < 1 || c.Channels < 1 || c.Classes < 1 || len(c.Filters) < 1 {
		return fmt.Errorf("nn: every size of a CNN must be at least 1: %+v", c)
	}
	for i, f := range c.Filters {
		if f < 1 {
			return fmt.Errorf("nn: every stage of a CNN needs filters: %v", c.Filters)
		}
		if w := c.pool(i); w.Height < w.Rows || w.Width < w.Columns {
			return fmt.Errorf("nn: images of %d×%d are too small for %d stages, which halve them", c.Height, c.Width, len(c.Filters))
		}
	}
	return nil
}

// conv and pool are the windows of stage i, for one image.
func (c CNNConfig) conv(i int) kernels.Window {
	w := kernels.Window{Images: 1, Height: c.Height >> i, Width: c.Width >> i, Channels: c.Channels, Rows: 3, Columns: 3, Stride: 1, Pad: 1}
	if i > 0 {
		w.Channels = c.Filters[i-1]
	}
	return w
}

func (c CNNConfig) pool(i int) kernels.Window {
	return kernels.Window{Images: 1, Height: c.Height >> i, Width: c.Width >> i, Channels: c.Filters[i], Rows: 2, Columns: 2, Stride: 2}
}

// pooled is how many values of one image leave stage i.
func (c CNNConfig) pooled(i int) int {
	height, width := c.pool(i).Out()
	return height * width * c.Filters[i]
}

// CNN is stages of a 3×3 convolution, a layer norm over the channels of each pixel, 2×2 max-pooling and ReLU, and one
// linear layer with a softmax over classes. The norm looks at one pixel, so what an image gives does not depend on the
// others of its batch. The maximum is taken before ReLU, which gives the same for a quarter of the work. Its tensors
// are conv.0.weight [filters, 3, 3, channels], conv.0.bias, norm.0.weight, norm.0.bias, and so on; fc.weight [classes, in] and fc.bias.
type CNN struct {
	classifier
	cfg    CNNConfig
	stages []cnnStage
	fc, fb pair
	top    kernels.Buffer // [rows, in]: the linear layer's input
	dtop   kernels.Buffer // the same shape
}

// cnnStage is one stage and its activations. A pixel is one of all rows' images.
type cnnStage struct {
	w, b, gamma, beta pair

	x          kernels.Buffer // [pixels, channels]: its input
	conv, norm kernels.Buffer // [pixels, filters]
	mean, rstd kernels.Buffer // [pixels]
	pooled     kernels.Buffer // [pixels of the next stage, filters], before ReLU

	dx           kernels.Buffer // as x; nil for the first: nobody wants the input's gradient
	dconv, dnorm kernels.Buffer // as conv
}

// NewCNN allocates a CNN on dev. Its parameters are zero until Init.
func NewCNN(dev kernels.Device, cfg CNNConfig) (*CNN, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	p, err := newParams(dev, cfg.specs())
	if err != nil {
		return nil, err
	}
	m := &CNN{cfg: cfg, fc: p.of("fc.weight"), fb: p.of("fc.bias")}
	m.classifier = classifier{params: p, net: m, inputs: cfg.Height * cfg.Width * cfg.Channels, classes: cfg.Classes, acts: arena{dev: dev}}
	for i := range cfg.Filters {
		of := func(name string) pair { return p.of(fmt.Sprintf(name, i)) }
		m.stages = append(m.stages, cnnStage{w: of("conv.%d.weight"), b: of("conv.%d.bias"), gamma: of("norm.%d.weight"), beta: of("norm.%d.bias")})
	}
	return m, nil
}

// specs declares the tensors with the initialisation of He et al. 2015, normals of √(2/in), biases 0, norms 1.
func (c CNNConfig) specs() []spec {
	he := func(in int) float32 { return float32(math.Sqrt(2 / float64(in))) }
	var specs []spec
	for i, f := range c.Filters {
		w := c.conv(i)
		specs = append(specs,
			spec{name: fmt.Sprintf("conv.%d.weight", i), shape: []int{f, w.Rows, w.Columns, w.Channels}, std: he(w.Rows * w.Columns * w.Channels), stage: i},
			spec{name: fmt.Sprintf("conv.%d.bias", i), shape: []int{f}, stage: i},
			spec{name: fmt.Sprintf("norm.%d.weight", i), shape: []int{f}, fill: 1, stage: i},
			spec{name: fmt.Sprintf("norm.%d.bias", i), shape: []int{f}, stage: i})
	}
	in, stage := c.pooled(len(c.Filters)-1), len(c.Filters)
	return append(specs,
		spec{name: "fc.weight", shape: []int{c.Classes, in}, std: he(in), stage: stage},
		spec{name: "fc.bias", shape: []int{c.Classes}, stage: stage})
}

// Program names the model's size.
func (m *CNN) Program() string {
	c := m.cfg
	return fmt.Sprintf("cnn %dx%dx%d filters %v classes %d", c.Height, c.Width, c.Channels, c.Filters, c.Classes)
}

// Flops estimates one forward and backward pass. The gradient of the images is not computed.
func (m *CNN) Flops(rows, _ int) float64 {
	total := 6 * float64(m.fc.v.Len())
	for i, s := range m.stages {
		w := m.cfg.conv(i)
		products := 6.0
		if i == 0 {
			products = 4
		}
		total += products * float64(w.Height*w.Width) * float64(s.w.v.Len())
	}
	return float64(rows) * total
}

// windows are those of stage i for so many images.
func (m *CNN) windows(i, rows int) (conv, pool kernels.Window) {
	conv, pool = m.cfg.conv(i), m.cfg.pool(i)
	conv.Images, pool.Images = rows, rows
	return conv, pool
}

func (m *CNN) shape(a *arena, in kernels.Buffer, rows int) kernels.Buffer {
	x := in
	for i := range m.stages {
		s, g := &m.stages[i], m.cfg.conv(i)
		pixels, filters := rows*g.Height*g.Width, m.cfg.Filters[i]
		s.x, s.conv, s.norm = x, a.take(pixels*filters), a.take(pixels*filters)
		s.mean, s.rstd = a.take(pixels), a.take(pixels)
		s.pooled, x = a.take(rows*m.cfg.pooled(i)), a.take(rows*m.cfg.pooled(i))
	}
	m.top = x
	return a.take(rows * m.classes)
}

func (m *CNN) shapeBackward(a *arena, rows int) {
	for i := range m.stages {
		s, g := &m.stages[i], m.cfg.conv(i)
		n := rows * g.Height * g.Width * m.cfg.Filters[i]
		s.dconv, s.dnorm = a.take(n), a.take(n)
		if i > 0 {
			s.dx = a.take(rows * m.cfg.pooled(i-1))
		}
	}
	m.dtop = a.take(rows * m.cfg.pooled(len(m.stages)-1))
}

func (m *CNN) forward(rows int) {
	for i := range m.stages {
		s := &m.stages[i]
		conv, pool := m.windows(i, rows)
		filters, out := m.cfg.Filters[i], m.top
		if i+1 < len(m.stages) {
			out = m.stages[i+1].x
		}
		m.dev.Conv(s.conv, s.x, s.w.v, s.b.v, filters, conv)
		m.dev.LayerNorm(s.norm, s.mean, s.rstd, s.conv, s.gamma.v, s.beta.v, s.mean.Len(), filters)
		m.dev.MaxPool(s.pooled, s.norm, pool)
		m.dev.ReLU(out, s.pooled)
	}
	m.dev.Linear(m.logits, m.top, m.fc.v, m.fb.v, rows, m.classes, m.cfg.pooled(len(m.stages)-1))
}

func (m *CNN) backward(rows int) {
	m.dev.LinearBackward(m.dtop, m.fc.g, m.fb.g, m.logits, m.top, m.fc.v, rows, m.classes, m.cfg.pooled(len(m.stages)-1))
	m.finished(len(m.stages))
	dout := m.dtop
	for i := len(m.stages) - 1; i >= 0; i-- {
		s := &m.stages[i]
		conv, pool := m.windows(i, rows)
		filters := m.cfg.Filters[i]
		m.dev.ReLUBackward(dout, dout, s.pooled)
		m.dev.MaxPoolBackward(s.dnorm, dout, s.norm, pool)
		m.dev.Zero(s.dconv)
		m.dev.LayerNormBackward(s.dconv, s.gamma.g, s.beta.g, s.dnorm, s.conv, s.gamma.v, s.mean, s.rstd, s.mean.Len(), filters)
		m.dev.ConvBackward(s.dx, s.w.g, s.b.g, s.dconv, s.x, s.w.v, filters, conv)
		if i > 0 {
			m.finished(i)
			dout = s.dx
		}
	}
}

// cnns are the named CNNs, all for MNIST, smallest first.
var cnns = []struct {
	name string
	cfg  CNNConfig
}{
	{"cnn-tiny", CNNConfig{Height: 28, Width: 28, Channels: 1, Filters: []int{4, 8}, Classes: 10}},
	{"cnn", CNNConfig{Height: 28, Width: 28, Channels: 1, Filters: []int{32, 64}, Classes: 10}},
}

// CNNNames lists the names of CNN configurations, all for MNIST: cnn-tiny with 4 and 8 filters, cnn with 32 and 64.
func CNNNames() []string {
	var names []string
	for _, c := range cnns {
		names = append(names, c.name)
	}
	return names
}

// CNNByName is the CNN configuration of that name. The caller may change all but the filters.
func CNNByName(name string) (CNNConfig, error) {
	for _, c := range cnns {
		if c.name == name {
			return c.cfg, nil
		}
	}
	return CNNConfig{}, unknown(name, CNNNames())
}
