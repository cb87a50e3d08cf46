package worker

import (
	"errors"
	"fmt"
	"math"

	"github.com/farandole-ml/farandole/collective/transport/auto"
	"github.com/farandole-ml/farandole/elastic"
	"github.com/farandole-ml/farandole/kernels"
)

// Resident is a Mirror whose gradients lie in one buffer of a device. They stay there while they are summed and reduced where
// every worker of the generation has one whose device shares memory with the others', or, in float32, sends to them, and the job's reduction is the
// tree: see Config.GPUReduce. The bits are those of the way by the host.
//
// PullGradients and PushGradients are still called: where a gradient is not finite, for a worker that is a step behind, and in the generations
// that reduce by way of the host.
type Resident interface {
	Mirror
	// Gradients are all registered gradients and nothing else, in an order that is equal on all workers.
	Gradients() (kernels.Device, kernels.Buffer)
}

// residence is the gradients' place on the device: buffers as long as all gradients, by slot as an accumulation has them, and the
// sum of the last reduced step. The training goroutine's own.
type residence struct {
	of    Resident
	dev   kernels.Device
	grads kernels.Buffer
	total kernels.Buffer // one value
	sum   []float32      // total on the host, one value
	mode  string         // Config.GPUReduce
	round bool           // every node of the tree is rounded to bfloat16
	told  string         // why they are not there, as was said last

	on    bool // in the generation that joined last
	slots []kernels.Buffer
	kept  kernels.Buffer // trades places with the first slot when a step is reduced

	team   team  // of that generation
	barred error // why no exchange is tried any more; nil: it is
}

// newResidence gives nil where gradients go by way of the host, whatever the others have.
func newResidence(m Mirror, cfg Config) *residence {
	of, ok := m.(Resident)
	if !ok || cfg.Reduce != ReduceTree || cfg.GPUReduce == GPUReduceHost ||
		cfg.GPUReduce == GPUReduceAuto && cfg.Transport != string(auto.Any) {
		return nil
	}
	r := &residence{of: of, mode: cfg.GPUReduce, round: cfg.Wire == WireBF16, sum: make([]float32, 1)}
	r.dev, r.grads = of.Gradients()
	return r
}

// here says that the generation's gradients stay on the device.
func (r *residence) here() bool { return r != nil && r.on }

// reserve allocates what a worker with this range needs. Its error, of memory that there is not, does not stick to the device.
func (r *residence) reserve(own elastic.Range, shards int) (err error) {
	want := func(b *kernels.Buffer, n int) {
		if *b == nil && err == nil {
			*b, err = r.dev.Alloc(n)
		}
	}
	want(&r.total, 1)
	want(&r.kept, r.grads.Len())
	for i := range usedSlots(own, shards) {
		if i == len(r.slots) {
			r.slots = append(r.slots, nil)
		}
		want(&r.slots[i], r.grads.Len())
	}
	return err
}

// usedSlots is how many slots an accumulation of a range fills, at least one. A shard that completes a node has none.
func usedSlots(own elastic.Range, shards int) int {
	n := 1
	m := elastic.NewMerger(own, shards)
	for step, ok := m.Next(); ok; step, ok = m.Next() {
		if len(step.Merges) == 0 || step.Merges[0].From != step.Slot {
			n = max(n, step.Slot+1)
		}
	}
	return n
}

// collect puts the shard's gradients into a slot, added to what is there if plus is true, and zeroes them. It gives the first tensor that
// is not finite, or finite.
func (r *residence) collect(slot int, plus bool, params []param) (bad int, err error) {
	bad, err = r.check(params)
	if err != nil {
		return bad, err
	}
	switch to := r.slots[slot]; {
	case plus:
		r.add(to, to, r.grads)
	case r.round:
		r.dev.AddRounded(to, r.grads, nil)
	default:
		r.dev.Copy(to, r.grads)
	}
	r.dev.Zero(r.grads)
	return bad, nil
}

func (r *residence) plus(into, from int) { r.add(r.slots[into], r.slots[into], r.slots[from]) }

// add is a node of the tree.
func (r *residence) add(dst, a, b kernels.Buffer) {
	if r.round {
		r.dev.AddRounded(dst, a, b)
	} else {
		r.dev.Add(dst, a, b)
	}
}

// check gives the first tensor that is not finite, or finite. A sum that is finite has no terms that are not. One that is not
// may have overflowed, so then the host looks.
func (r *residence) check(params []param) (bad int, err error) {
	r.dev.Sum(r.total, r.grads)
	if err := r.dev.Download(r.sum, r.total); err != nil {
		return finite, err
	}
	if allFinite(r.sum) {
		return finite, nil
	}
	err = r.onHost(params, func() {
		bad = finite
		for i := len(params) - 1; i >= 0; i-- {
			if !allFinite(params[i].grad) {
				bad = i
			}
		}
	})
	return bad, err
}

// onHost brings the gradients to registered memory while f runs, which may change them.
func (r *residence) onHost(params []param, f func()) error {
	if err := r.of.PullGradients(0, len(params)); err != nil {
		return err
	}
	f()
	return r.of.PushGradients()
}

// poison puts a NaN into the first parameter's gradient.
func (r *residence) poison(params []param) error {
	return r.onHost(params, func() { params[0].grad[0] = float32(math.NaN()) })
}

// keep makes the first slot the sum of the last reduced step.
func (r *residence) keep() {
	r.slots[0], r.kept = r.kept, r.slots[0]
	if r.team.way != nil {
		r.team.way.swap()
	}
}

// deliver copies the reduced sum into the gradients and says whether it has a NaN or Inf.
func (r *residence) deliver(params []param) (infinite bool, err error) {
	r.dev.Copy(r.grads, r.kept)
	bad, err := r.check(params)
	return bad != finite, err
}

// fetch brings the kept sum to dst, a whole vector, by way of the gradients, which are of no use between two steps.
func (r *residence) fetch(v *vector, params []param, dst []float32) error {
	r.dev.Copy(r.grads, r.kept)
	if err := r.of.PullGradients(0, len(params)); err != nil {
		return err
	}
	v.collect(dst, params, 0, v.grads, false)
	return nil
}

// abandon makes the generation's gradients go by way of the host. The kept sum must be there already.
func (r *residence) abandon() {
	r.on, r.slots, r.kept, r.team = false, nil, nil, team{}
}

// leave closes what the last generation's peers shared. Nothing is reduced here until the next one joined.
func (r *residence) leave() error {
	if r == nil {
		return nil
	}
	r.on = false
	return r.team.leave(r.dev)
}

var errNoSharing = errors.New("its device shares no memory")

// errUnasked is why a rank does not try what its Config leaves out.
func errUnasked(mode string) error { return fmt.Errorf("--gpu-reduce %s is asked for", mode) }

// offer exports what peers read: the first slot and the one it trades places with, then the slots of further partials.
func (r *residence) offer(own elastic.Range, shards int) (handles [][]byte, err error) {
	sharer, ok := r.dev.(kernels.Sharer)
	switch {
	case r.mode == GPUReduceNCCL:
		return nil, errUnasked(r.mode)
	case !ok:
		return nil, errNoSharing
	}
	if err := r.reserve(own, shards); err != nil {
		return nil, err
	}
	shared := []kernels.Buffer{r.slots[0], r.kept}
	for i := 1; i < len(elastic.Partials(own, shards)); i++ {
		shared = append(shared, r.slots[i])
	}
	for _, b := range shared {
		h, err := sharer.Export(b)
		if err != nil {
			return nil, err
		}
		if len(h) == 0 || len(h) > kernels.MaxHandle {
			return nil, fmt.Errorf("%s gives a handle of %d bytes: 1 to %d are possible", r.dev.Name(), len(h), kernels.MaxHandle)
		}
		handles = append(handles, h)
	}
	return handles, nil
}
