package nn

import (
	"fmt"

	"github.com/farandole-ml/farandole/kernels"
)

// spec declares one tensor before memory exists.
type spec struct {
	name       string
	shape      []int
	transposed bool
	std        float32 // of the normal initialisation
	fill       float32 // value when std is 0
	stage      int     // Tensor's
}

func (s spec) len() int {
	n := 1
	for _, d := range s.shape {
		n *= d
	}
	return n
}

func (s spec) matrix() bool { return len(s.shape) > 1 }

// params is a model's two flat buffers and the tensors in them.
type params struct {
	dev           kernels.Device
	specs         []spec // in buffer order
	tensors       []Tensor
	byName        map[string]int
	values, grads kernels.Buffer
	decayed       int             // elements [0, decayed) are matrices
	final         func(stage int) // OnFinal's; may be nil
}

// inBufferOrder gives matrices first, then vectors, each in the order of specs.
func inBufferOrder(specs []spec) []spec {
	var ordered []spec
	for _, matrices := range []bool{true, false} {
		for _, s := range specs {
			if s.matrix() == matrices {
				ordered = append(ordered, s)
			}
		}
	}
	return ordered
}

// tensor is s without memory.
func (s spec) tensor() Tensor {
	return Tensor{Name: s.name, Shape: s.shape, Decay: s.matrix(), Transposed: s.transposed, Stage: s.stage}
}

// newParams allocates the tensors of specs, in buffer order.
func newParams(dev kernels.Device, specs []spec) (*params, error) {
	p := &params{dev: dev, specs: inBufferOrder(specs), byName: make(map[string]int, len(specs))}
	total := 0
	for _, s := range p.specs {
		total += s.len()
		if s.matrix() {
			p.decayed = total
		}
	}
	var err error
	if p.values, err = dev.Alloc(total); err != nil {
		return nil, fmt.Errorf("nn: %d parameters: %w", total, err)
	}
	if p.grads, err = dev.Alloc(total); err != nil {
		return nil, fmt.Errorf("nn: %d gradients: %w", total, err)
	}
	off := 0
	for i, s := range p.specs {
		n := s.len()
		t := s.tensor()
		t.Value, t.Grad = p.values.Slice(off, n), p.grads.Slice(off, n)
		p.tensors = append(p.tensors, t)
		p.byName[s.name] = i
		off += n
	}
	return p, nil
}

// pair is a weight with its gradient.
type pair struct{ v, g kernels.Buffer }

// of gives the tensor of that name; an unknown one is a programmer's error.
func (p *params) of(name string) pair {
	i, ok := p.byName[name]
	if !ok {
		panic("nn: no tensor " + name)
	}
	return pair{p.tensors[i].Value, p.tensors[i].Grad}
}

// Init sets the parameters to those of a seed, and the gradients to zero.
func (p *params) Init(seed uint64) {
	var staging []float32
	for i, s := range p.specs {
		n := s.len()
		if cap(staging) < n {
			staging = make([]float32, n)
		}
		x := staging[:n]
		if s.std != 0 {
			streamOf(seed, s.name).fillNormal(x, s.std)
		} else {
			for j := range x {
				x[j] = s.fill
			}
		}
		p.dev.Upload(p.tensors[i].Value, x)
	}
	p.dev.Zero(p.grads)
}

// Params lists the tensors in buffer order.
func (p *params) Params() []Tensor { return p.tensors }

// ParamBuffer is the memory of all parameters.
func (p *params) ParamBuffer() kernels.Buffer { return p.values }

// GradBuffer is the memory of all gradients, laid out as the parameters are.
func (p *params) GradBuffer() kernels.Buffer { return p.grads }

// OnFinal makes Backward call f.
func (p *params) OnFinal(f func(stage int)) { p.final = f }

// finished tells that Backward will not touch the gradients of stage and above again. It waits for nothing: who reads them does,
// and a device's error comes out there.
func (p *params) finished(stage int) {
	if p.final != nil {
		p.final(stage)
	}
}

// matrixWeights counts the elements of matrices.
func (p *params) matrixWeights() int { return p.decayed }

// arena hands out device memory for activations. It grows by replacing a buffer that is too small and never
// shrinks, so that a step after the largest one allocates nothing.
type arena struct {
	dev  kernels.Device
	bufs []kernels.Buffer
	next int
	err  error // first allocation error; buffers are nil from then on
}

// begin starts handing out from the first buffer again.
func (a *arena) begin() { a.next, a.err = 0, nil }

// take gives the next buffer, exactly n long. Calls follow the same order after every begin.
func (a *arena) take(n int) kernels.Buffer {
	i := a.next
	a.next++
	if i == len(a.bufs) {
		a.bufs = append(a.bufs, nil)
	}
	if a.bufs[i] == nil || a.bufs[i].Len() < n {
		b, err := a.dev.Alloc(n)
		if err != nil {
			if a.err == nil {
				a.err = fmt.Errorf("nn: %d activations: %w", n, err)
			}
			return nil
		}
		a.bufs[i] = b
	}
	return a.bufs[i].Slice(0, n)
}
