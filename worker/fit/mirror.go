package fit

import (
	"slices"

	"github.com/farandole-ml/farandole/kernels"
	"github.com/farandole-ml/farandole/kernels/nn"
	"github.com/farandole-ml/farandole/worker"
)

var (
	_ worker.Resident = (*mirror)(nil)
	_ worker.Fetcher  = (*mirror)(nil)
)

// mirror is a worker.Resident: host memory laid out as a model's and its optimizer's buffers are, so that copies are single
// passes over long runs.
type mirror struct {
	dev   kernels.Device
	grads mirrored
	state []mirrored // parameters, then moments
	spans []span     // where each registered parameter is in the flat buffers
	runs  []span     // memory of PullGradients
}

// mirrored is a buffer with its copy on the host.
type mirrored struct {
	device kernels.Buffer
	host   []float32
}

// span is values [lo, hi) of the flat buffers.
type span struct{ lo, hi int }

// onHost gives the host's view of b: its own memory where the host can address that, else room for a copy.
func onHost(dev kernels.Device, b kernels.Buffer) mirrored {
	if x := dev.Host(b); x != nil || b.Len() == 0 {
		return mirrored{b, x}
	}
	return mirrored{b, dev.AllocHost(b.Len())}
}

// spansOf finds params, the model's tensors in another order, in its flat buffers.
func spansOf(model nn.Model, params []nn.Tensor) []span {
	at, off := map[string]span{}, 0
	for _, t := range model.Params() {
		n := t.Value.Len()
		at[t.Name] = span{off, off + n}
		off += n
	}
	spans := make([]span, len(params))
	for i, t := range params {
		spans[i] = at[t.Name]
	}
	return spans
}

func (m *mirror) PullGradients(first, end int) error {
	m.runs = joined(m.runs[:0], m.spans[first:end])
	for _, r := range m.runs {
		part := m.grads.device.Slice(r.lo, r.hi-r.lo)
		if err := m.dev.Download(m.grads.host[r.lo:r.hi], part); err != nil {
			return err
		}
		m.dev.Zero(part)
	}
	return nil
}

// FetchGradients has the device copy while it computes, if it can.
func (m *mirror) FetchGradients(first, end int) (wait func() error, err error) {
	fetcher, ok := m.dev.(kernels.Fetcher)
	if !ok {
		return func() error { return nil }, m.PullGradients(first, end)
	}
	m.runs = joined(m.runs[:0], m.spans[first:end])
	var waits []func() error
	for _, r := range m.runs {
		waits = append(waits, fetcher.Fetch(m.grads.host[r.lo:r.hi], m.grads.device.Slice(r.lo, r.hi-r.lo)))
	}
	return func() error {
		var err error
		for _, wait := range waits {
			if e := wait(); err == nil {
				err = e
			}
		}
		return err
	}, nil
}

// joined appends spans to runs in rising order, neighbours as one.
func joined(runs, spans []span) []span {
	runs = append(runs, spans...)
	slices.SortFunc(runs, func(a, b span) int { return a.lo - b.lo })
	n := 0
	for _, s := range runs {
		if n > 0 && runs[n-1].hi == s.lo {
			runs[n-1].hi = s.hi
			continue
		}
		runs[n] = s
		n++
	}
	return runs[:n]
}

// Gradients are those of the flat buffer, in the model's order.
func (m *mirror) Gradients() (kernels.Device, kernels.Buffer) { return m.dev, m.grads.device }

// An upload's error sticks to the device: the next wait tells it.
func (m *mirror) PushGradients() error {
	m.dev.Upload(m.grads.device, m.grads.host)
	return nil
}

func (m *mirror) ClearGradients() error {
	m.dev.Zero(m.grads.device)
	return nil
}

func (m *mirror) PullState() error {
	for _, s := range m.state {
		if err := m.dev.Download(s.host, s.device); err != nil {
			return err
		}
	}
	return nil
}

func (m *mirror) PushState() error {
	for _, s := range m.state {
		m.dev.Upload(s.device, s.host)
	}
	return m.dev.Sync()
}
