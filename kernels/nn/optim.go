package nn

import (
	"errors"
	"fmt"
	"math"

	"github.com/farandole-ml/farandole/kernels"
)

// ErrNotFinite says that the gradient has a NaN or an infinity, or that its norm overflows. The parameters are as
// they were before.
var ErrNotFinite = errors.New("gradient is not finite")

// Hyper has the hyper-parameters of AdamW, the clipping and the schedule. The zero value of each field stands for its
// default, except LR.
type Hyper struct {
	Schedule Schedule

	Beta1, Beta2 float32 // 0.9, 0.95
	Eps          float32 // 1e-8
	// Decay is the weight decay of matrices; biases and norms have none. Default 0.1, negative for none.
	Decay float32
	// Clip bounds the gradient's global norm. Default 1, negative for no bound.
	Clip float64
}

func (h Hyper) withDefaults() Hyper {
	def := func(x *float32, d float32) {
		switch {
		case *x == 0:
			*x = d
		case *x < 0:
			*x = 0
		}
	}
	def(&h.Beta1, 0.9)
	def(&h.Beta2, 0.95)
	def(&h.Eps, 1e-8)
	def(&h.Decay, 0.1)
	switch {
	case h.Clip == 0:
		h.Clip = 1
	case h.Clip < 0:
		h.Clip = math.Inf(1)
	}
	return h
}

// AdamW is the optimizer of one model (Loshchilov and Hutter 2019): moments over the flat buffer, clipping by the global norm.
type AdamW struct {
	dev    kernels.Device
	model  Model
	hyper  Hyper
	m, v   kernels.Buffer
	square kernels.Buffer // [1]
	host   scalar         // its value
	groups []group
}

// group is a run of the flat buffers with one weight decay.
type group struct {
	off, n     int
	decay      float32
	p, g, m, v kernels.Buffer
}

// NewAdamW allocates the moments of model, zero.
func NewAdamW(dev kernels.Device, model Model, h Hyper) (*AdamW, error) {
	o := &AdamW{dev: dev, model: model, hyper: h.withDefaults()}
	n := model.ParamBuffer().Len()
	for _, b := range []struct {
		dst *kernels.Buffer
		n   int
	}{{&o.m, n}, {&o.v, n}, {&o.square, 1}} {
		var err error
		if *b.dst, err = dev.Alloc(b.n); err != nil {
			return nil, fmt.Errorf("nn: optimizer state of %d: %w", b.n, err)
		}
	}
	o.group()
	return o, nil
}

// group splits the flat buffers into runs of equal decay.
func (o *AdamW) group() {
	off := 0
	for _, t := range o.model.Params() {
		n := t.Value.Len()
		var decay float32
		if t.Decay {
			decay = o.hyper.Decay
		}
		if last := len(o.groups) - 1; last >= 0 && o.groups[last].decay == decay {
			o.groups[last].n += n
		} else {
			o.groups = append(o.groups, group{off: off, n: n, decay: decay})
		}
		off += n
	}
	for i := range o.groups {
		g := &o.groups[i]
		g.p = o.model.ParamBuffer().Slice(g.off, g.n)
		g.g = o.model.GradBuffer().Slice(g.off, g.n)
		g.m, g.v = o.m.Slice(g.off, g.n), o.v.Slice(g.off, g.n)
	}
}

// Moments are the first and second moments, laid out as the parameters are. They are the optimizer's whole state.
func (o *AdamW) Moments() (m, v kernels.Buffer) { return o.m, o.v }

// Update applies one update of the model's gradient, the sum of all shards, with the schedule's learning rate of step
// (1 for the first). It gives the gradient's norm before clipping. The gradient stays as it is.
func (o *AdamW) Update(step int64) (norm float64, err error) {
	o.dev.SquareSum(o.square, o.model.GradBuffer())
	squares, err := o.host.of(o.dev, o.square)
	if err != nil {
		return 0, err
	}
	norm = math.Sqrt(squares)
	if math.IsNaN(norm) || math.IsInf(norm, 0) {
		return norm, o.notFinite(step)
	}
	gscale := float32(1)
	if norm > o.hyper.Clip {
		gscale = float32(o.hyper.Clip / norm)
	}
	a := kernels.AdamW{
		LR:    float32(o.hyper.Schedule.LR(step)),
		Beta1: o.hyper.Beta1, Beta2: o.hyper.Beta2, Eps: o.hyper.Eps,
		Step: step,
	}
	for _, g := range o.groups {
		a.Decay = g.decay
		o.dev.AdamW(g.p, g.g, g.m, g.v, gscale, a)
	}
	return norm, o.dev.Sync()
}

// notFinite names the first tensor whose gradient is not finite.
func (o *AdamW) notFinite(step int64) error {
	for _, t := range o.model.Params() {
		g := make([]float32, t.Grad.Len())
		if err := o.dev.Download(g, t.Grad); err != nil {
			return err
		}
		for i, x := range g {
			if x-x != 0 {
				return fmt.Errorf("nn: step %d: %w: %v in %s at %d; a lower learning rate often helps", step, ErrNotFinite, x, t.Name, i)
			}
		}
	}
	return fmt.Errorf("nn: step %d: %w: the norm overflows; a lower learning rate often helps", step, ErrNotFinite)
}

// scalar is room for one value of a device: a variable would be allocated by every call.
type scalar [1]float32

// of waits for the device and reads x.
func (s *scalar) of(dev kernels.Device, x kernels.Buffer) (float64, error) {
	if err := dev.Download(s[:], x); err != nil {
		return 0, err
	}
	return float64(s[0]), nil
}
