package kernels

// softmaxTerms writes e_j = exp(x_j - max x) to e and returns max x and lanes(e). e may be x.
func softmaxTerms(e, x []float32) (largest, sum float32) {
	largest = x[0]
	for _, v := range x[1:] {
		if v > largest {
			largest = v
		}
	}
	var l lanes
	for j, v := range x {
		e[j] = exp32(v - largest)
		l.add(j, e[j])
	}
	return largest, l.fold(len(x))
}

func (reference) layerNorm(t *layerNormTask, i0, i1 int) {
	for i := i0; i < i1; i++ {
		x, out := t.x[i*t.c:][:t.c], t.out[i*t.c:][:t.c]
		if t.add != nil {
			a, b := x, t.add[i*t.c:]
			x = t.sum[i*t.c:][:t.c]
			for j := range x {
				x[j] = a[j] + b[j]
			}
		}
		var sum, squares lanes
		for j, v := range x {
			sum.add(j, v)
		}
		mean := sum.fold(t.c) / float32(t.c)
		for j, v := range x {
			d := v - mean
			squares.fma(j, d, d)
		}
		rstd := 1 / sqrt32(squares.fold(t.c)/float32(t.c)+layerNormEps)
		for j, v := range x {
			n := float32((v - mean) * rstd)
			out[j] = fma32(n, t.gamma[j], t.beta[j])
		}
		t.mean[i], t.rstd[i] = mean, rstd
	}
}

func (reference) layerNormRows(t *layerNormTask, i0, i1 int) {
	for i := i0; i < i1; i++ {
		x, dout, dx := t.x[i*t.c:][:t.c], t.dout[i*t.c:][:t.c], t.dx[i*t.c:][:t.c]
		mean, rstd := t.mean[i], t.rstd[i]
		var sum, dot lanes
		for j, v := range x {
			g := float32(dout[j] * t.gamma[j])
			n := float32((v - mean) * rstd)
			sum.add(j, g)
			dot.fma(j, g, n)
		}
		a, b := sum.fold(t.c)/float32(t.c), dot.fold(t.c)/float32(t.c)
		for j, v := range x {
			g := float32(dout[j] * t.gamma[j])
			n := float32((v - mean) * rstd)
			dx[j] = fma32(fma32(-n, b, g-a), rstd, dx[j])
		}
	}
}

func (reference) layerNormColumns(t *layerNormTask, j0, j1 int) {
	for j := j0; j < j1; j++ {
		for i := 0; i < t.rows; i += BlockK {
			var dgamma, dbeta float32
			for r := i; r < min(i+BlockK, t.rows); r++ {
				dout := t.dout[r*t.c+j]
				n := float32((t.x[r*t.c+j] - t.mean[r]) * t.rstd[r])
				dgamma = fma32(dout, n, dgamma)
				dbeta += dout
			}
			t.dgamma[j] += dgamma
			t.dbeta[j] += dbeta
		}
	}
}

func (reference) crossEntropy(t *crossEntropyTask, i0, i1 int) {
	terms := make([]float32, t.v)
	for i := i0; i < i1; i++ {
		x, y := t.logits[i*t.v:][:t.v], int(t.targets[i])
		if y < 0 {
			t.losses[i] = 0
			if t.scale != 0 {
				clear(x)
			}
			continue
		}
		largest, sum := softmaxTerms(terms, x)
		t.losses[i] = log32(sum) - (x[y] - largest)
		if t.scale == 0 {
			continue
		}
		r := 1 / sum
		for j, e := range terms {
			p := float32(e * r)
			if j == y {
				p--
			}
			x[j] = p * t.scale
		}
	}
}
