package kernels

// minPartWork is how many elements, or as much work, a part must have to be worth waking a goroutine.
// A device has its own copy, which tests lower so that small shapes are cut as well.
const minPartWork = 32 << 10

// partsPerThread is into how many parts a large task is cut for each thread. More let a thread that was held up do less;
// fewer save what every part repeats.
const partsPerThread = 4

// maxPartWork bounds the parts of a large task, so that nobody waits long for the last one: a million elements take about a millisecond.
const maxPartWork = 1 << 20

// partsFor is into how many parts to cut a task of the given work along a dimension of length values;
// no part is shorter than Lanes.
func (d *hostDevice) partsFor(work, length int) int {
	return d.partsUpTo(max(d.pool.threads*partsPerThread, work/maxPartWork), work, length)
}

// partsUpTo is the same with at most the given number of parts.
func (d *hostDevice) partsUpTo(most, work, length int) int {
	parts := min(work/d.minPartWork, most, (length+Lanes-1)/Lanes, maxParts)
	if d.pool.threads == 1 || parts <= 1 {
		return 1
	}
	// Whole rounds, unless the task is too small for a part each.
	if parts > d.pool.threads {
		parts -= parts % d.pool.threads
	}
	return parts
}

// tasks has one of each kind of task, so that an operation allocates nothing.
type tasks struct {
	element      elementTask
	matmul       matmulSet
	plain        plainMatmul
	embed        embedPart
	layerNorm    layerNormPart
	attention    attentionPart
	crossEntropy crossEntropyPart
	window       windowTask
	reduce       reducePart
	factors      AdamWFactors
}

type elementOp int

const (
	opAdd elementOp = iota
	opAddRounded
	opScale
	opGELU
	opGELUBackward
	opReLU
	opReLUBackward
	opAdamW
	opZero
	opCopy
)

// elementTask is an operation that treats every element alike: a is x (or the first operand), b is dout, c what else there is.
type elementTask struct {
	op           elementOp
	out, a, b, c []float32
	s            float32
	factors      *AdamWFactors
	engine       engine
}

func (d *hostDevice) elements(t elementTask) {
	t.engine = d.engine
	d.tasks.element = t
	n := len(t.out)
	if n == 0 {
		return
	}
	parts := d.partsFor(n, n)
	if t.op == opZero {
		parts = d.partsUpTo(d.pool.threads*partsPerThread, n, n) // clear stores past the caches in large parts alone
	}
	d.pool.run(&d.tasks.element, parts)
}

func (t *elementTask) run(i, n int) {
	from, to := cut(len(t.out), Lanes, i, n), cut(len(t.out), Lanes, i+1, n)
	out := t.out[from:to]
	var a, b, c []float32
	if t.a != nil {
		a = t.a[from:to]
	}
	if t.b != nil {
		b = t.b[from:to]
	}
	if t.c != nil {
		c = t.c[from:to]
	}
	switch t.op {
	case opAdd:
		t.engine.add(out, a, b)
	case opAddRounded:
		addRounded(out, a, b)
	case opScale:
		t.engine.scale(out, t.s)
	case opGELU:
		t.engine.gelu(out, a)
	case opGELUBackward:
		t.engine.geluBackward(out, c, b, a)
	case opReLU:
		t.engine.relu(out, a)
	case opReLUBackward:
		t.engine.reluBackward(out, b, a)
	case opAdamW:
		t.engine.adamW(out, a, b, c, t.factors)
	case opZero:
		clear(out)
	case opCopy:
		copy(out, a)
	}
}

type columnSumsPart struct {
	columnSumsTask
	engine engine
}

func (t *columnSumsPart) run(i, n int) {
	t.engine.columnSums(&t.columnSumsTask, cut(t.n, Lanes, i, n), cut(t.n, Lanes, i+1, n))
}

type embedPart struct {
	embedTask
	backward bool
	engine   engine
}

func (t *embedPart) run(i, n int) {
	if t.backward {
		t.engine.embedBackward(&t.embedTask, cut(t.c, Lanes, i, n), cut(t.c, Lanes, i+1, n))
		return
	}
	rows := len(t.tokens)
	t.engine.embed(&t.embedTask, rows*i/n, rows*(i+1)/n)
}

const (
	layerNormForward = iota
	layerNormBackward
)

type layerNormPart struct {
	layerNormTask
	phase  int
	engine engine
}

func (t *layerNormPart) run(i, n int) {
	i0, i1 := t.rows*i/n, t.rows*(i+1)/n
	if t.phase == layerNormForward {
		t.engine.layerNorm(&t.layerNormTask, i0, i1)
		return
	}
	t.engine.layerNormRows(&t.layerNormTask, i0, i1)
	t.engine.layerNormColumns(&t.layerNormTask, cut(t.c, Lanes, i, n), cut(t.c, Lanes, i+1, n))
}

type attentionPart struct {
	attentionTask
	backward bool
	engine   engine
}

func (t *attentionPart) run(i, n int) {
	all := t.b * t.heads
	if t.backward {
		t.engine.attentionBackward(&t.attentionTask, all*i/n, all*(i+1)/n)
		return
	}
	t.engine.attention(&t.attentionTask, all*i/n, all*(i+1)/n)
}

type crossEntropyPart struct {
	crossEntropyTask
	engine engine
}

func (t *crossEntropyPart) run(i, n int) {
	rows := len(t.losses)
	t.engine.crossEntropy(&t.crossEntropyTask, rows*i/n, rows*(i+1)/n)
}

type reducePart struct {
	partials, x []float32
	square      bool
	engine      engine
}

func (t *reducePart) run(i, n int) {
	blocks := len(t.partials)
	t.engine.blockSums(t.partials, t.x, t.square, blocks*i/n, blocks*(i+1)/n)
}
