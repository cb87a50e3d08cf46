package kernels

import "fmt"

func (d *hostDevice) Zero(x Buffer) {
	d.elements(elementTask{op: opZero, out: d.own("Zero", "x", x)})
}

func (d *hostDevice) Copy(dst, src Buffer) {
	x := d.own("Copy", "dst", dst)
	d.elements(elementTask{op: opCopy, out: x, a: d.floats("Copy", "src", src, len(x))})
}

func (d *hostDevice) Add(dst, a, b Buffer)      { d.sum("Add", dst, a, b) }
func (d *hostDevice) Residual(out, a, b Buffer) { d.sum("Residual", out, a, b) }

func (d *hostDevice) sum(op string, dst, a, b Buffer) {
	x := d.own(op, "dst", dst)
	d.elements(elementTask{op: opAdd, out: x, a: d.floats(op, "a", a, len(x)), b: d.floats(op, "b", b, len(x))})
}

func (d *hostDevice) Scale(x Buffer, s float32) {
	d.elements(elementTask{op: opScale, out: d.own("Scale", "x", x), s: s})
}

func (d *hostDevice) GELU(out, x Buffer) { d.activation("GELU", opGELU, out, nil, x) }
func (d *hostDevice) ReLU(out, x Buffer) { d.activation("ReLU", opReLU, out, nil, x) }

func (d *hostDevice) GELUBackward(dx, out, dout, x Buffer) {
	const op = "GELUBackward"
	o := d.own(op, "dx", dx)
	n := len(o)
	d.elements(elementTask{op: opGELUBackward, out: o, a: d.floats(op, "x", x, n), b: d.floats(op, "dout", dout, n),
		c: d.optional(op, "out", out, n)})
}

func (d *hostDevice) ReLUBackward(dx, dout, x Buffer) {
	d.activation("ReLUBackward", opReLUBackward, dx, dout, x)
}

func (d *hostDevice) activation(name string, op elementOp, out, dout, x Buffer) {
	o := d.own(name, "the output", out)
	n := len(o)
	d.elements(elementTask{op: op, out: o, a: d.floats(name, "x", x, n), b: d.optional(name, "dout", dout, n)})
}

func (d *hostDevice) AdamW(p, g, m, v Buffer, gscale float32, a AdamW) {
	if a.Step < 1 {
		panic(fmt.Sprintf("kernels: AdamW: step is %d, the first is 1", a.Step))
	}
	x := d.own("AdamW", "p", p)
	n := len(x)
	d.tasks.factors = a.factors(gscale)
	d.elements(elementTask{op: opAdamW, out: x, a: d.floats("AdamW", "g", g, n),
		b: d.floats("AdamW", "m", m, n), c: d.floats("AdamW", "v", v, n), factors: &d.tasks.factors})
}

func (d *hostDevice) Linear(out, x, w, bias Buffer, m, n, k int) {
	checkDims("Linear", m, n, k)
	d.matmul(columnSumsTask{}, matmulTask{
		c: d.floats("Linear", "out", out, m*n), a: d.floats("Linear", "x", x, m*k), b: d.floats("Linear", "w", w, n*k),
		bias: d.optional("Linear", "bias", bias, n),
		m:    m, n: n, k: k, ai: k, ak: 1, bk: 1, bj: k,
	})
}

func (d *hostDevice) LinearBackwardInput(dx, dout, w Buffer, m, n, k int) {
	const op = "LinearBackwardInput"
	checkDims(op, m, n, k)
	d.matmul(columnSumsTask{}, matmulTask{
		c: d.floats(op, "dx", dx, m*k), a: d.floats(op, "dout", dout, m*n), b: d.floats(op, "w", w, n*k),
		m: m, n: k, k: n, ai: n, ak: 1, bk: k, bj: 1,
	})
}

func (d *hostDevice) LinearBackward(dx, dw, dbias, dout, x, w Buffer, m, n, k int) {
	const op = "LinearBackward"
	checkDims(op, m, n, k)
	do, xs := d.floats(op, "dout", dout, m*n), d.floats(op, "x", x, m*k)
	ws, dws := d.floats(op, "w", w, n*k), d.floats(op, "dw", dw, n*k)
	var sums columnSumsTask
	if db := d.optional(op, "dbias", dbias, n); db != nil {
		sums = columnSumsTask{db, do, m, n}
	}
	gradient := matmulTask{c: dws, a: do, b: xs, m: n, n: k, k: m, ai: 1, ak: n, bk: k, bj: 1, accumulate: true}
	if dxs := d.optional(op, "dx", dx, m*k); dxs != nil {
		d.matmul(sums, matmulTask{c: dxs, a: do, b: ws, m: m, n: k, k: n, ai: n, ak: 1, bk: k, bj: 1}, gradient)
		return
	}
	d.matmul(sums, gradient)
}

func (d *hostDevice) Embed(out, wte, wpe Buffer, tokens Ints, b, t, c int) {
	d.embed("Embed", out, wte, wpe, tokens, b, t, c, false)
}

func (d *hostDevice) EmbedBackward(dwte, dwpe, dout Buffer, tokens Ints, b, t, c int) {
	d.embed("EmbedBackward", dout, dwte, dwpe, tokens, b, t, c, true)
}

func (d *hostDevice) embed(op string, x, wte, wpe Buffer, tokens Ints, b, t, c int, backward bool) {
	checkDims(op, b, t, c)
	table := d.own(op, "wte", wte)
	if len(table)%c != 0 {
		panic(fmt.Sprintf("kernels: %s: wte has %d values, no multiple of the width %d", op, len(table), c))
	}
	var positions []float32
	if wpe != nil {
		if positions = d.own(op, "wpe", wpe); len(positions) < t*c {
			panic(fmt.Sprintf("kernels: %s: wpe has %d values, %d positions of width %d need %d", op, len(positions), t, c, t*c))
		}
	}
	ids := d.ints(op, "tokens", tokens, b*t)
	checkIDs(op, "tokens", ids, 0, len(table)/c)
	p := &d.tasks.embed
	*p = embedPart{embedTask{d.floats(op, "out", x, b*t*c), table, positions, ids, t, c}, backward, d.engine}
	if backward {
		d.pool.run(p, d.partsFor(b*t*c, c))
	} else {
		d.pool.run(p, d.partsFor(b*t*c, b*t*Lanes))
	}
}

func (d *hostDevice) LayerNorm(out, mean, rstd, x, gamma, beta Buffer, rows, c int) {
	const op = "LayerNorm"
	checkDims(op, rows, c)
	p := &d.tasks.layerNorm
	*p = layerNormPart{layerNormTask{
		out: d.floats(op, "out", out, rows*c), mean: d.floats(op, "mean", mean, rows), rstd: d.floats(op, "rstd", rstd, rows),
		x: d.floats(op, "x", x, rows*c), gamma: d.floats(op, "gamma", gamma, c), beta: d.floats(op, "beta", beta, c),
		rows: rows, c: c,
	}, layerNormForward, d.engine}
	d.pool.run(p, d.partsFor(rows*c*4, rows*Lanes))
}

func (d *hostDevice) LayerNormBackward(dx, dgamma, dbeta, dout, x, gamma, mean, rstd Buffer, rows, c int) {
	const op = "LayerNormBackward"
	checkDims(op, rows, c)
	p := &d.tasks.layerNorm
	*p = layerNormPart{layerNormTask{
		dx: d.floats(op, "dx", dx, rows*c), dgamma: d.floats(op, "dgamma", dgamma, c), dbeta: d.floats(op, "dbeta", dbeta, c),
		dout: d.floats(op, "dout", dout, rows*c), x: d.floats(op, "x", x, rows*c), gamma: d.floats(op, "gamma", gamma, c),
		mean: d.floats(op, "mean", mean, rows), rstd: d.floats(op, "rstd", rstd, rows), rows: rows, c: c,
	}, layerNormBackward, d.engine}
	d.pool.run(p, d.partsFor(rows*c*8, min(rows*Lanes, c)))
}

func (d *hostDevice) Attention(out, qkv Buffer, b, t, heads, hs int) {
	const op = "Attention"
	checkDims(op, b, t, t, heads, hs)
	c := heads * hs
	p := &d.tasks.attention
	*p = attentionPart{attentionTask{
		out: d.floats(op, "out", out, b*t*c), qkv: d.floats(op, "qkv", qkv, b*t*3*c),
		b: b, t: t, heads: heads, hs: hs, scale: attentionScale(hs),
	}, false, d.engine}
	d.pool.run(p, d.partsFor(b*t*t*c, b*heads*Lanes))
}

func (d *hostDevice) AttentionBackward(dqkv, dout, qkv Buffer, b, t, heads, hs int) {
	const op = "AttentionBackward"
	checkDims(op, b, t, t, heads, hs)
	c := heads * hs
	p := &d.tasks.attention
	*p = attentionPart{attentionTask{
		dqkv: d.floats(op, "dqkv", dqkv, b*t*3*c), dout: d.floats(op, "dout", dout, b*t*c),
		qkv: d.floats(op, "qkv", qkv, b*t*3*c),
		b:   b, t: t, heads: heads, hs: hs, scale: attentionScale(hs),
	}, true, d.engine}
	d.pool.run(p, d.partsFor(2*b*t*t*c, b*heads*Lanes))
}

func (d *hostDevice) CrossEntropy(losses, logits Buffer, targets Ints, rows, v int, scale float32) {
	const op = "CrossEntropy"
	checkDims(op, rows, v)
	p := &d.tasks.crossEntropy
	*p = crossEntropyPart{crossEntropyTask{
		losses: d.floats(op, "losses", losses, rows), logits: d.floats(op, "logits", logits, rows*v),
		targets: d.ints(op, "targets", targets, rows), v: v, scale: scale,
	}, d.engine}
	checkIDs(op, "targets", p.targets, -1<<31, v)
	d.pool.run(p, d.partsFor(rows*v*8, rows*Lanes))
}

func (d *hostDevice) Sum(out, x Buffer)       { d.reduce("Sum", out, x, false) }
func (d *hostDevice) SquareSum(out, x Buffer) { d.reduce("SquareSum", out, x, true) }

func (d *hostDevice) reduce(op string, out, x Buffer, square bool) {
	o, xs := d.floats(op, "out", out, 1), d.own(op, "x", x)
	blocks := (len(xs) + BlockSum - 1) / BlockSum
	p := &d.tasks.reduce
	if cap(p.partials) < blocks {
		p.partials = make([]float32, blocks)
	}
	*p = reducePart{p.partials[:blocks], xs, square, d.engine}
	if blocks > 0 {
		d.pool.run(p, d.partsFor(len(xs), blocks*Lanes))
	}
	sum := 0.0
	for _, s := range p.partials {
		sum += float64(s)
	}
	o[0] = float32(sum)
}
