package kernels

func (d *hostDevice) Zero(x Buffer) {
	d.shapes.CheckOwned("Zero", "x", x)
	d.elements(elementTask{op: opZero, out: floats(x)})
}

func (d *hostDevice) Copy(dst, src Buffer) {
	d.shapes.CheckCopy(dst, src)
	d.elements(elementTask{op: opCopy, out: floats(dst), a: floats(src)})
}

func (d *hostDevice) Add(dst, a, b Buffer) {
	d.shapes.CheckAdd(dst, a, b)
	d.elements(elementTask{op: opAdd, out: floats(dst), a: floats(a), b: floats(b)})
}

func (d *hostDevice) AddRounded(dst, a, b Buffer) {
	d.shapes.CheckAddRounded(dst, a, b)
	d.elements(elementTask{op: opAddRounded, out: floats(dst), a: floats(a), b: floats(b)})
}

func (d *hostDevice) Scale(x Buffer, s float32) {
	d.shapes.CheckOwned("Scale", "x", x)
	d.elements(elementTask{op: opScale, out: floats(x), s: s})
}

func (d *hostDevice) GELU(out, x Buffer) {
	d.shapes.CheckActivation("GELU", out, x)
	d.elements(elementTask{op: opGELU, out: floats(out), a: floats(x)})
}

func (d *hostDevice) ReLU(out, x Buffer) {
	d.shapes.CheckActivation("ReLU", out, x)
	d.elements(elementTask{op: opReLU, out: floats(out), a: floats(x)})
}

func (d *hostDevice) GELUBackward(dx, out, dout, x Buffer) {
	d.shapes.CheckActivationBackward("GELUBackward", dx, out, dout, x)
	d.elements(elementTask{op: opGELUBackward, out: floats(dx), a: floats(x), b: floats(dout), c: floats(out)})
}

func (d *hostDevice) ReLUBackward(dx, dout, x Buffer) {
	d.shapes.CheckActivationBackward("ReLUBackward", dx, nil, dout, x)
	d.elements(elementTask{op: opReLUBackward, out: floats(dx), a: floats(x), b: floats(dout)})
}

func (d *hostDevice) AdamW(p, g, m, v Buffer, gscale float32, a AdamW) {
	d.shapes.CheckAdamW(p, g, m, v, a)
	d.tasks.factors = a.Factors(gscale)
	d.elements(elementTask{op: opAdamW, out: floats(p), a: floats(g), b: floats(m), c: floats(v), factors: &d.tasks.factors})
}

func (d *hostDevice) Linear(out, x, w, bias Buffer, m, n, k int) {
	d.shapes.CheckLinear(out, x, w, bias, m, n, k)
	d.matmul(columnSumsTask{}, matmulTask{
		c: floats(out), a: floats(x), b: floats(w), bias: floats(bias),
		m: m, n: n, k: k, ai: k, ak: 1, bk: 1, bj: k,
	})
}

func (d *hostDevice) LinearBackwardInput(dx, dout, w Buffer, m, n, k int) {
	d.shapes.CheckLinearBackwardInput(dx, dout, w, m, n, k)
	d.matmul(columnSumsTask{}, matmulTask{
		c: floats(dx), a: floats(dout), b: floats(w),
		m: m, n: k, k: n, ai: n, ak: 1, bk: k, bj: 1,
	})
}

func (d *hostDevice) LinearBackward(dx, dw, dbias, dout, x, w Buffer, m, n, k int) {
	d.shapes.CheckLinearBackward(dx, dw, dbias, dout, x, w, m, n, k)
	do := floats(dout)
	var sums columnSumsTask
	if db := floats(dbias); db != nil {
		sums = columnSumsTask{db, do, m, n}
	}
	gradient := matmulTask{c: floats(dw), a: do, b: floats(x), m: n, n: k, k: m, ai: 1, ak: n, bk: k, bj: 1, accumulate: true}
	if dxs := floats(dx); dxs != nil {
		d.matmul(sums, matmulTask{c: dxs, a: do, b: floats(w), m: m, n: k, k: n, ai: n, ak: 1, bk: k, bj: 1}, gradient)
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
	d.shapes.CheckEmbed(op, x, wte, wpe, tokens, b, t, c)
	p := &d.tasks.embed
	*p = embedPart{embedTask{floats(x), floats(wte), floats(wpe), integers(tokens), t, c}, backward, d.engine}
	if backward {
		d.pool.run(p, d.partsFor(b*t*c, c))
	} else {
		d.pool.run(p, d.partsFor(b*t*c, b*t*Lanes))
	}
}

func (d *hostDevice) LayerNorm(out, mean, rstd, x, gamma, beta Buffer, rows, c int) {
	d.shapes.CheckLayerNorm("LayerNorm", out, mean, rstd, x, gamma, beta, rows, c)
	d.layerNorm(layerNormTask{
		out: floats(out), mean: floats(mean), rstd: floats(rstd), x: floats(x), gamma: floats(gamma), beta: floats(beta),
		rows: rows, c: c,
	})
}

func (d *hostDevice) ResidualLayerNorm(sum, out, mean, rstd, a, b, gamma, beta Buffer, rows, c int) {
	d.shapes.CheckResidualLayerNorm(sum, out, mean, rstd, a, b, gamma, beta, rows, c)
	d.layerNorm(layerNormTask{
		out: floats(out), mean: floats(mean), rstd: floats(rstd), x: floats(a), gamma: floats(gamma), beta: floats(beta),
		sum: floats(sum), add: floats(b), rows: rows, c: c,
	})
}

func (d *hostDevice) layerNorm(t layerNormTask) {
	d.tasks.layerNorm = layerNormPart{t, layerNormForward, d.engine}
	d.pool.run(&d.tasks.layerNorm, d.partsFor(t.rows*t.c*4, t.rows*Lanes))
}

func (d *hostDevice) LayerNormBackward(dx, dgamma, dbeta, dout, x, gamma, mean, rstd Buffer, rows, c int) {
	d.shapes.CheckLayerNormBackward(dx, dgamma, dbeta, dout, x, gamma, mean, rstd, rows, c)
	p := &d.tasks.layerNorm
	*p = layerNormPart{layerNormTask{
		dx: floats(dx), dgamma: floats(dgamma), dbeta: floats(dbeta), dout: floats(dout), x: floats(x), gamma: floats(gamma),
		mean: floats(mean), rstd: floats(rstd), rows: rows, c: c,
	}, layerNormBackward, d.engine}
	d.pool.run(p, d.partsFor(rows*c*8, min(rows*Lanes, c)))
}

func (d *hostDevice) Attention(out, qkv Buffer, b, t, heads, hs int) {
	d.shapes.CheckAttention(out, qkv, b, t, heads, hs)
	p := &d.tasks.attention
	*p = attentionPart{attentionTask{
		out: floats(out), qkv: floats(qkv), b: b, t: t, heads: heads, hs: hs, scale: AttentionScale(hs),
	}, false, d.engine}
	d.pool.run(p, d.partsFor(b*t*t*heads*hs, b*heads*Lanes))
}

func (d *hostDevice) AttentionBackward(dqkv, dout, qkv Buffer, b, t, heads, hs int) {
	d.shapes.CheckAttentionBackward(dqkv, dout, qkv, b, t, heads, hs)
	p := &d.tasks.attention
	*p = attentionPart{attentionTask{
		dqkv: floats(dqkv), dout: floats(dout), qkv: floats(qkv), b: b, t: t, heads: heads, hs: hs, scale: AttentionScale(hs),
	}, true, d.engine}
	d.pool.run(p, d.partsFor(2*b*t*t*heads*hs, b*heads*Lanes))
}

func (d *hostDevice) CrossEntropy(losses, logits Buffer, targets Ints, rows, v int, scale float32) {
	d.shapes.CheckCrossEntropy(losses, logits, targets, rows, v)
	p := &d.tasks.crossEntropy
	*p = crossEntropyPart{crossEntropyTask{
		losses: floats(losses), logits: floats(logits), targets: integers(targets), v: v, scale: scale,
	}, d.engine}
	d.pool.run(p, d.partsFor(rows*v*8, rows*Lanes))
}

func (d *hostDevice) Sum(out, x Buffer)       { d.reduce("Sum", out, x, false) }
func (d *hostDevice) SquareSum(out, x Buffer) { d.reduce("SquareSum", out, x, true) }

func (d *hostDevice) reduce(op string, out, x Buffer, square bool) {
	d.shapes.CheckReduction(op, out, x)
	o, xs := floats(out), floats(x)
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
