package nn

import (
	"fmt"

	"github.com/farandole-ml/farandole/kernels"
)

// gptRun is the activations of the shape [b, t], and whether they wait for a Backward.
type gptRun struct {
	b, t     int
	grads    bool // the backward buffers are there
	pending  bool // Forward ran with a scale, Backward did not yet
	computed bool // losses are valid

	tokens, targets kernels.Ints // [bt]

	embedded kernels.Buffer // [bt, c]
	layers   []layerRun
	lnf      kernels.Buffer // [bt, c]
	lnfMean  kernels.Buffer // [bt]
	lnfRstd  kernels.Buffer
	head     []headRun
	logits   kernels.Buffer // [headRows, vocab]: of one part of the positions
	losses   kernels.Buffer // [bt]
	sum      kernels.Buffer // [1]
	host     scalar         // the sum's value
	branch   kernels.Buffer // [bt, c]: what a layer's half adds to the residual stream
	norm     kernels.Buffer // [bt, c]: the output of a layer's norm; backward computes it again
	gelu     kernels.Buffer // [bt, 4c]: the same of GELU

	dres    kernels.Buffer // [bt, c]: gradient of the residual stream
	dnorm   kernels.Buffer // [bt, c]: gradient of a norm's output, or of attention's
	dqkv    kernels.Buffer // [bt, 3c]
	dhidden kernels.Buffer // [bt, 4c]: gradient of GELU's output, then of its input
}

// headRows is how many positions go through the output head at once: their logits are the largest matrix of all. It is made
// of canonical blocks, so the gradient of the head's matrix has the same bits whatever the batch. Every part packs that matrix
// anew and adds to its gradient, both beyond the caches; where products are fast that shows, and larger parts are worth
// their memory.
func headRows(class string) int {
	switch {
	case class == kernels.ClassBF16, class == kernels.ClassBF16AMX:
		return 4 * kernels.BlockK
	case kernels.RoundsFactors(class):
		return kernels.BlockMMA
	}
	return kernels.BlockK
}

// headRun is a part of at most headRows positions.
type headRun struct {
	rows                    int
	in, din, logits, losses kernels.Buffer // [rows, c] twice, [rows, vocab], [rows]
	targets                 kernels.Ints
}

// layerRun is what one layer keeps for its backward pass. When activations are recomputed all layers share what lies between in
// and out.
type layerRun struct {
	in            kernels.Buffer // [bt, c]: the residual stream before the layer, another's out
	mean1, rstd1  kernels.Buffer
	qkv, attended kernels.Buffer // [bt, 3c], [bt, c]
	mid           kernels.Buffer // [bt, c]: after attention
	mean2, rstd2  kernels.Buffer
	fc            kernels.Buffer // [bt, 4c]
	out           kernels.Buffer // [bt, c]
}

// shape makes the activations those of [b, t]; grads asks for the backward pass's as well.
func (m *GPT) shape(b, t int, grads bool) error {
	r := &m.run
	if r.b == b && r.t == t && (r.grads || !grads) {
		return nil
	}
	r.b = 0 // not usable should an allocation fail
	c, bt := m.cfg.Width, b*t
	a := &m.acts
	a.begin()
	r.embedded, r.branch, r.norm, r.gelu = a.take(bt*c), a.take(bt*c), a.take(bt*c), a.take(4*bt*c)
	r.lnf, r.lnfMean, r.lnfRstd = a.take(bt*c), a.take(bt), a.take(bt)
	r.logits, r.losses, r.sum = a.take(min(bt, headRows(m.dev.Class()))*m.cfg.Vocab), a.take(bt), a.take(1)
	r.layers = r.layers[:0]
	in := r.embedded
	var l layerRun
	for i := range m.cfg.Layers {
		if i == 0 || !m.recompute {
			l = layerRun{
				mean1: a.take(bt), rstd1: a.take(bt),
				qkv: a.take(3 * bt * c), attended: a.take(bt * c),
				mid:   a.take(bt * c),
				mean2: a.take(bt), rstd2: a.take(bt),
				fc: a.take(4 * bt * c),
			}
		}
		l.in, l.out = in, a.take(bt*c)
		r.layers = append(r.layers, l)
		in = l.out
	}
	if grads { // last, so that their absence moves nothing
		r.dres, r.dnorm, r.dqkv = a.take(bt*c), a.take(bt*c), a.take(3*bt*c)
		r.dhidden = a.take(4 * bt * c)
	}
	if a.err != nil {
		return a.err
	}
	if m.ints == nil || m.ints.Len() < 2*bt {
		var err error
		if m.ints, err = m.dev.AllocInts(2 * bt); err != nil {
			return fmt.Errorf("nn: %d tokens: %w", 2*bt, err)
		}
	}
	r.tokens, r.targets = m.ints.Slice(0, bt), m.ints.Slice(bt, bt)
	r.b, r.t, r.grads = b, t, grads
	m.cutHead()
	return nil
}

// cutHead makes the parts of the output head.
func (m *GPT) cutHead() {
	r, c := &m.run, m.cfg.Width
	bt := r.b * r.t
	r.head = r.head[:0]
	most := headRows(m.dev.Class())
	for i := 0; i < bt; i += most {
		n := min(most, bt-i)
		h := headRun{rows: n, in: r.lnf.Slice(i*c, n*c), logits: r.logits.Slice(0, n*m.cfg.Vocab),
			losses: r.losses.Slice(i, n), targets: r.targets.Slice(i, n)}
		if r.grads {
			h.din = r.dnorm.Slice(i*c, n*c)
		}
		r.head = append(r.head, h)
	}
}

// Forward computes the losses of b and, part by part, what the output head adds to the gradient: logits are not kept. See Model.
func (m *GPT) Forward(b Batch, scale float32) error {
	m.run.pending, m.run.computed = false, false
	if err := m.check(b); err != nil {
		return err
	}
	if err := m.shape(b.Rows, b.Seq, scale != 0); err != nil {
		return err
	}
	m.trunk(b.Tokens)
	r, v, c := &m.run, m.cfg.Vocab, m.cfg.Width
	m.dev.UploadInts(r.targets, b.Targets)
	for _, h := range r.head {
		m.dev.Linear(h.logits, h.in, m.wte.v, nil, h.rows, v, c)
		m.dev.CrossEntropy(h.losses, h.logits, h.targets, h.rows, v, scale)
		if scale != 0 {
			m.dev.LinearBackward(h.din, m.wte.g, nil, h.logits, h.in, m.wte.v, h.rows, v, c)
		}
	}
	m.dev.Sum(r.sum, r.losses)
	r.pending, r.computed = scale != 0, true
	return nil
}

// check finds what a device would panic at.
func (m *GPT) check(b Batch) error {
	if b.Rows < 1 || b.Seq < 1 || b.Seq > m.cfg.Context {
		return fmt.Errorf("%w: %d sequences of %d tokens, context %d", ErrBatch, b.Rows, b.Seq, m.cfg.Context)
	}
	bt := b.Rows * b.Seq
	if len(b.Tokens) != bt || len(b.Targets) != bt {
		return fmt.Errorf("%w: %d tokens and %d targets where %d are due", ErrBatch, len(b.Tokens), len(b.Targets), bt)
	}
	for i, tok := range b.Tokens {
		if tok < 0 || int(tok) >= m.cfg.Vocab {
			return fmt.Errorf("%w: token %d at %d, vocabulary %d", ErrBatch, tok, i, m.cfg.Vocab)
		}
	}
	for i, tok := range b.Targets {
		if int(tok) >= m.cfg.Vocab {
			return fmt.Errorf("%w: target %d at %d, vocabulary %d", ErrBatch, tok, i, m.cfg.Vocab)
		}
	}
	return nil
}

// Recompute says whether Backward computes what lies inside a layer again from the layer's input, instead of keeping it since
// Forward: the same bits from much less memory, for about a third more arithmetic.
func (m *GPT) Recompute(on bool) {
	if m.recompute != on {
		m.recompute = on
		m.run.b, m.run.pending = 0, false // buffers are handed out anew
		m.acts.bufs = nil
	}
}

// trunk runs everything below the output head; the activations have the shape of tokens.
func (m *GPT) trunk(tokens []int32) {
	d, r := m.dev, &m.run
	b, t, c := r.b, r.t, m.cfg.Width
	bt := b * t
	d.UploadInts(r.tokens, tokens)
	d.Embed(r.embedded, m.wte.v, m.wpe.v, r.tokens, b, t, c)
	m.normalize(0)
	for i := range m.blocks {
		w, l := &m.blocks[i], &r.layers[i]
		m.inside(w, l)
		d.GELU(r.gelu, l.fc)
		d.Linear(r.branch, r.gelu, w.outW.v, w.outB.v, bt, c, 4*c)
		if i == len(m.blocks)-1 {
			d.ResidualLayerNorm(l.out, r.lnf, r.lnfMean, r.lnfRstd, l.mid, r.branch, m.lnfG.v, m.lnfB.v, bt, c)
			break
		}
		w, next := &m.blocks[i+1], &r.layers[i+1]
		d.ResidualLayerNorm(l.out, r.norm, next.mean1, next.rstd1, l.mid, r.branch, w.ln1G.v, w.ln1B.v, bt, c)
	}
}

// normalize computes the normalised input of layer i.
func (m *GPT) normalize(i int) {
	r, w, l := &m.run, &m.blocks[i], &m.run.layers[i]
	m.dev.LayerNorm(r.norm, l.mean1, l.rstd1, l.in, w.ln1G.v, w.ln1B.v, r.b*r.t, m.cfg.Width)
}

// inside runs a layer from its normalised input to the input of GELU: what its backward pass needs.
func (m *GPT) inside(w *block, l *layerRun) {
	d, r := m.dev, &m.run
	b, t, c, heads := r.b, r.t, m.cfg.Width, m.cfg.Heads
	bt := b * t
	d.Linear(l.qkv, r.norm, w.qkvW.v, w.qkvB.v, bt, 3*c, c)
	d.Attention(l.attended, l.qkv, b, t, heads, c/heads)
	d.Linear(r.branch, l.attended, w.projW.v, w.projB.v, bt, c, c)
	d.ResidualLayerNorm(l.mid, r.norm, l.mean2, l.rstd2, l.in, r.branch, w.ln2G.v, w.ln2B.v, bt, c)
	d.Linear(l.fc, r.norm, w.fcW.v, w.fcB.v, bt, 4*c, c)
}

// Backward adds the rest of the gradient of the last Forward. The shared matrix got the head's part first, and gets the
// embedding's last.
func (m *GPT) Backward() {
	d, r := m.dev, &m.run
	if !r.pending {
		panic("nn: Backward without a Forward that had a scale")
	}
	r.pending = false
	b, t, c, heads := r.b, r.t, m.cfg.Width, m.cfg.Heads
	bt := b * t
	d.Zero(r.dres)
	top := r.layers[len(r.layers)-1].out
	d.LayerNormBackward(r.dres, m.lnfG.g, m.lnfB.g, r.dnorm, top, m.lnfG.v, r.lnfMean, r.lnfRstd, bt, c)
	m.finished(len(m.blocks) + 1)
	for i := len(m.blocks) - 1; i >= 0; i-- {
		w, l := &m.blocks[i], &r.layers[i]
		if m.recompute && i < len(m.blocks)-1 { // Forward left what is inside the last layer
			m.normalize(i)
			m.inside(w, l)
		}
		d.LinearBackwardInput(r.dhidden, r.dres, w.outW.v, bt, c, 4*c)
		d.GELUBackward(r.dhidden, r.gelu, r.dhidden, l.fc)
		d.LinearBackward(nil, w.outW.g, w.outB.g, r.dres, r.gelu, w.outW.v, bt, c, 4*c)
		d.LayerNorm(r.norm, l.mean2, l.rstd2, l.mid, w.ln2G.v, w.ln2B.v, bt, c)
		d.LinearBackward(r.dnorm, w.fcW.g, w.fcB.g, r.dhidden, r.norm, w.fcW.v, bt, 4*c, c)
		d.LayerNormBackward(r.dres, w.ln2G.g, w.ln2B.g, r.dnorm, l.mid, w.ln2G.v, l.mean2, l.rstd2, bt, c)
		d.LinearBackward(r.dnorm, w.projW.g, w.projB.g, r.dres, l.attended, w.projW.v, bt, c, c)
		d.AttentionBackward(r.dqkv, r.dnorm, l.qkv, b, t, heads, c/heads)
		m.normalize(i)
		d.LinearBackward(r.dnorm, w.qkvW.g, w.qkvB.g, r.dqkv, r.norm, w.qkvW.v, bt, 3*c, c)
		d.LayerNormBackward(r.dres, w.ln1G.g, w.ln1B.g, r.dnorm, l.in, w.ln1G.v, l.mean1, l.rstd1, bt, c)
		m.finished(i + 1)
	}
	d.EmbedBackward(m.wte.g, m.wpe.g, r.dres, r.tokens, b, t, c)
}

// Loss is the sum of the last Forward's losses.
func (m *GPT) Loss() (float64, error) {
	if !m.run.computed {
		panic("nn: Loss without a Forward")
	}
	return m.run.host.of(m.dev, m.run.sum)
}
