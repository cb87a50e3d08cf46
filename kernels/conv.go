package kernels

// Window is a batch of images [Images, Height, Width, Channels], channels last, and how a window of Rows×Columns pixels
// slides over them: Stride pixels at a time, and up to Pad pixels over every edge. Pad is less than Rows and Columns, so
// that no window lies outside.
type Window struct {
	Images, Height, Width, Channels int
	Rows, Columns, Stride, Pad      int
}

// Out is how many positions the window has on an image, down and across.
func (g Window) Out() (height, width int) {
	return (g.Height+2*g.Pad-g.Rows)/g.Stride + 1, (g.Width+2*g.Pad-g.Columns)/g.Stride + 1
}

// Positions is how many positions the window has on all images, Inputs how many values all images have, and Under how many
// are under the window.
func (g Window) Positions() int {
	height, width := g.Out()
	return g.Images * height * width
}

func (g Window) Inputs() int { return g.Images * g.Height * g.Width * g.Channels }
func (g Window) Under() int  { return g.Rows * g.Columns * g.Channels }

// window is a checked Window and what follows from it.
type window struct {
	Window
	outHeight, outWidth int
	positions           int // of all images
	inputs, under       int // values of all images, and under one position
}

func newWindow(g Window) window {
	w := window{Window: g, positions: g.Positions(), inputs: g.Inputs(), under: g.Under()}
	w.outHeight, w.outWidth = g.Out()
	return w
}

// columnFloats bounds the matrix of columns that a convolution makes at a time: 4 MiB, what stays in the caches until the
// product has read it. A device has its own copy, which tests lower.
const columnFloats = 1 << 20

// Stretch is how many positions are treated at once where the columns of all would be more than limit values: whole canonical
// blocks of so many terms, so that sums over positions have the same bits whatever it is.
func (g Window) Stretch(limit, terms int) int {
	return max(1, limit/g.Under()/terms) * terms
}

// convScratch is the columns of one stretch and their gradient.
type convScratch struct {
	columns, gradient []float32
}

func (d *hostDevice) room(x []float32, n int) []float32 {
	if len(x) < n {
		return d.pages.floats(n)
	}
	return x
}

func (d *hostDevice) Conv(out, x, w, bias Buffer, filters int, g Window) {
	d.shapes.CheckConv(out, x, w, bias, filters, g)
	s := newWindow(g)
	k := s.under
	o, xs, ws, b := floats(out), floats(x), floats(w), floats(bias)
	step := min(s.Stretch(d.columnFloats, BlockK), s.positions)
	d.conv.columns = d.room(d.conv.columns, step*k)
	for p0 := 0; p0 < s.positions; p0 += step {
		p1 := min(p0+step, s.positions)
		columns := d.conv.columns[:(p1-p0)*k]
		d.windows(windowTask{op: windowColumns, window: s, x: xs, out: columns, p0: p0, p1: p1})
		d.matmul(columnSumsTask{}, matmulTask{c: o[p0*filters : p1*filters], a: columns, b: ws, bias: b,
			m: p1 - p0, n: filters, k: k, ai: k, ak: 1, bk: 1, bj: k})
	}
}

func (d *hostDevice) ConvBackward(dx, dw, dbias, dout, x, w Buffer, filters int, g Window) {
	d.shapes.CheckConvBackward(dx, dw, dbias, dout, x, w, filters, g)
	s := newWindow(g)
	k := s.under
	do, xs, ws, dws := floats(dout), floats(x), floats(w), floats(dw)
	db, dxs := floats(dbias), floats(dx)
	step := min(s.Stretch(d.columnFloats, BlockK), s.positions)
	d.conv.columns = d.room(d.conv.columns, step*k)
	if dxs != nil {
		d.conv.gradient = d.room(d.conv.gradient, step*k)
		d.Zero(dx)
	}
	for p0 := 0; p0 < s.positions; p0 += step {
		p1 := min(p0+step, s.positions)
		n, part := p1-p0, do[p0*filters:p1*filters]
		columns := d.conv.columns[:n*k]
		d.windows(windowTask{op: windowColumns, window: s, x: xs, out: columns, p0: p0, p1: p1})
		var sums columnSumsTask
		if db != nil {
			sums = columnSumsTask{db, part, n, filters}
		}
		gradient := matmulTask{c: dws, a: part, b: columns, m: filters, n: k, k: n, ai: 1, ak: filters, bk: k, bj: 1, accumulate: true}
		if dxs == nil {
			d.matmul(sums, gradient)
			continue
		}
		dcolumns := d.conv.gradient[:n*k]
		d.matmul(sums, matmulTask{c: dcolumns, a: part, b: ws, m: n, n: k, k: filters, ai: filters, ak: 1, bk: k, bj: 1}, gradient)
		d.windows(windowTask{op: windowImages, window: s, x: dcolumns, out: dxs, p0: p0, p1: p1})
	}
}

func (d *hostDevice) MaxPool(out, x Buffer, g Window) {
	d.shapes.CheckMaxPool(out, x, g)
	s := newWindow(g)
	d.windows(windowTask{op: windowMax, window: s, x: floats(x), out: floats(out), p1: s.positions})
}

func (d *hostDevice) MaxPoolBackward(dx, dout, x Buffer, g Window) {
	d.shapes.CheckMaxPoolBackward(dx, dout, x, g)
	s := newWindow(g)
	d.windows(windowTask{op: windowMaxBackward, window: s, x: floats(x), dout: floats(dout), out: floats(dx), p1: s.positions})
}

type windowOp int

const (
	windowColumns windowOp = iota
	windowImages
	windowMax
	windowMaxBackward
)

// windowTask treats the window's positions [p0,p1) of all images. Of columns, x and out have those positions only.
type windowTask struct {
	op windowOp
	window
	out, x, dout []float32
	p0, p1       int
	engine       engine
}

func (d *hostDevice) windows(t windowTask) {
	t.engine = d.engine
	p := &d.tasks.window
	*p = t
	n := t.p1 - t.p0
	work := n * t.under
	if !t.scatters() {
		d.pool.run(p, d.partsFor(work, n*Lanes))
		return
	}
	first, last := t.images()
	d.pool.run(p, d.partsFor(work, (last-first)*Lanes))
}

// scatters says whether a position writes to its image, so that one image is one thread's.
func (t *windowTask) scatters() bool { return t.op == windowImages || t.op == windowMaxBackward }

// images is the range of images that the positions are on.
func (t *windowTask) images() (first, last int) {
	each := t.outHeight * t.outWidth
	return t.p0 / each, (t.p1 + each - 1) / each
}

func (t *windowTask) run(i, n int) {
	if !t.scatters() {
		all := t.p1 - t.p0
		from, to := t.p0+all*i/n, t.p0+all*(i+1)/n
		if t.op == windowColumns {
			t.columns(from, to)
		} else {
			t.engine.maxPool(t, from, to)
		}
		return
	}
	first, last := t.images()
	each := t.outHeight * t.outWidth
	from, to := first+(last-first)*i/n, first+(last-first)*(i+1)/n
	q0, q1 := max(t.p0, from*each), min(t.p1, to*each)
	if q0 >= q1 {
		return
	}
	if t.op == windowImages {
		t.engine.addColumns(t, q0, q1)
		return
	}
	size := t.Height * t.Width * t.Channels
	for image := from; image < to; image++ { // one at a time: the caches still have it when sums are added
		clear(t.out[image*size:][:size])
		t.engine.maxPoolBackward(t, image*each, (image+1)*each)
	}
}

// corner is position p's image, and the first row and column of pixels under its window, which may lie outside.
func (t *window) corner(p int) (image, y, x int) {
	image, p = p/(t.outHeight*t.outWidth), p%(t.outHeight*t.outWidth)
	return image, p/t.outWidth*t.Stride - t.Pad, p%t.outWidth*t.Stride - t.Pad
}

// columns writes the pixels under the window at positions [from,to), one row for each position, zeros where it reaches over
// an edge. It computes nothing, so all engines share it.
func (t *windowTask) columns(from, to int) {
	c := t.Channels
	image, y, x := t.corner(from)
	for p := from; p < to; p++ {
		row := t.out[(p-t.p0)*t.under:][:t.under]
		left, right := max(0, -x), min(t.Columns, t.Width-x)
		for ky := range t.Rows {
			dst := row[ky*t.Columns*c:][:t.Columns*c]
			if y+ky < 0 || y+ky >= t.Height {
				clear(dst)
				continue
			}
			clear(dst[:left*c])
			copyFew(dst[left*c:right*c], t.x[((image*t.Height+y+ky)*t.Width+x+left)*c:])
			clear(dst[right*c:])
		}
		if x += t.Stride; x+t.Columns > t.Width+t.Pad {
			x = -t.Pad
			if y += t.Stride; y+t.Rows > t.Height+t.Pad {
				y = -t.Pad
				image++
			}
		}
	}
}

// few is how many values are copied without a call.
const few = 16

// copyFew is copy for what are often a few values.
func copyFew(dst, src []float32) {
	if len(dst) > few {
		copy(dst, src)
		return
	}
	src = src[:len(dst)]
	for i, v := range src { //nolint:staticcheck // S1001: the call of copy is what this saves
		dst[i] = v
	}
}
