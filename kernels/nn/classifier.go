package nn

import (
	"fmt"

	"github.com/farandole-ml/farandole/kernels"
)

// classifier is a model of inputs of a fixed length that each have one class: what an MLP and a CNN have in common. The layers
// between the inputs and the logits are net's.
type classifier struct {
	*params
	net             layers
	inputs, classes int // of one row

	acts     arena
	ints     kernels.Ints // room for targets
	rows     int          // of the current shape
	grads    bool         // the backward buffers are there
	pending  bool         // Forward ran with a scale, Backward did not yet
	computed bool

	in, losses, sum kernels.Buffer // [rows, inputs], [rows], [1]
	host            scalar         // the sum's value
	logits          kernels.Buffer // [rows, classes]; after Forward their gradient
	targets         kernels.Ints   // [rows]
}

// layers are the activations of a classifier and what is computed with them.
type layers interface {
	// shape takes the forward activations of so many rows from a, and gives the last one. shapeBackward takes the others.
	shape(a *arena, in kernels.Buffer, rows int) (logits kernels.Buffer)
	shapeBackward(a *arena, rows int)
	forward(rows int)
	// backward adds the gradient to that of the parameters; the logits hold theirs.
	backward(rows int)
}

// Classifier is a Model that tells classes: an MLP or a CNN.
type Classifier interface {
	Model
	// Classify gives the most likely class of each of len(dst) inputs, which stand one after the other.
	Classify(dst []int, inputs []float32) error
}

// resize makes the activations those of so many rows; grads asks for the backward pass's as well.
func (m *classifier) resize(rows int, grads bool) error {
	if m.rows == rows && (m.grads || !grads) {
		return nil
	}
	m.rows = 0 // not usable should an allocation fail
	a := &m.acts
	a.begin()
	m.in, m.losses, m.sum = a.take(rows*m.inputs), a.take(rows), a.take(1)
	m.logits = m.net.shape(a, m.in, rows)
	if grads { // last, so that their absence moves nothing
		m.net.shapeBackward(a, rows)
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
func (m *classifier) Forward(b Batch, scale float32) error {
	m.pending, m.computed = false, false
	if err := m.check(b); err != nil {
		return err
	}
	if err := m.resize(b.Rows, scale != 0); err != nil {
		return err
	}
	m.dev.UploadInts(m.targets, b.Targets)
	m.dev.Upload(m.in, b.Inputs)
	m.net.forward(b.Rows)
	m.dev.CrossEntropy(m.losses, m.logits, m.targets, b.Rows, m.classes, scale)
	m.dev.Sum(m.sum, m.losses)
	m.pending, m.computed = scale != 0, true
	return nil
}

func (m *classifier) check(b Batch) error {
	if b.Rows < 1 || len(b.Inputs) != b.Rows*m.inputs || len(b.Targets) != b.Rows {
		return fmt.Errorf("%w: %d rows with %d inputs and %d targets, %d inputs a row", ErrBatch, b.Rows, len(b.Inputs), len(b.Targets), m.inputs)
	}
	for i, t := range b.Targets {
		if int(t) >= m.classes {
			return fmt.Errorf("%w: target %d at %d, %d classes", ErrBatch, t, i, m.classes)
		}
	}
	return nil
}

// Backward adds the gradient of the last Forward.
func (m *classifier) Backward() {
	if !m.pending {
		panic("nn: Backward without a Forward that had a scale")
	}
	m.pending = false
	m.net.backward(m.rows)
}

// Loss is the sum of the last Forward's losses.
func (m *classifier) Loss() (float64, error) {
	if !m.computed {
		panic("nn: Loss without a Forward")
	}
	return m.host.of(m.dev, m.sum)
}

// Classify gives the most likely class of each of len(dst) inputs.
func (m *classifier) Classify(dst []int, inputs []float32) error {
	rows := len(dst)
	if rows < 1 || len(inputs) != rows*m.inputs {
		return fmt.Errorf("%w: %d inputs for %d rows of %d", ErrBatch, len(inputs), rows, m.inputs)
	}
	m.pending, m.computed = false, false
	if err := m.resize(rows, false); err != nil {
		return err
	}
	m.dev.Upload(m.in, inputs)
	m.net.forward(rows)
	out := make([]float32, rows*m.classes)
	if err := m.dev.Download(out, m.logits); err != nil {
		return err
	}
	for i := range dst {
		dst[i] = argmax(out[i*m.classes : (i+1)*m.classes])
	}
	return nil
}

// RandomBatch is a batch of normal inputs of random classes. seq is ignored.
func (m *classifier) RandomBatch(rows, _ int, seed uint64) Batch {
	b := Batch{Rows: rows, Seq: 1, Inputs: make([]float32, rows*m.inputs), Targets: make([]int32, rows)}
	streamOf(seed, "inputs").fillNormal(b.Inputs, 1)
	s := streamOf(seed, "targets")
	for i := range b.Targets {
		b.Targets[i] = int32(s.at(uint64(i)) % uint64(m.classes))
	}
	return b
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
