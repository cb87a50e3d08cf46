package kernels

// head has the offsets of one batch and head: row i of q, k and v starts at q+i·row, k+i·row and v+i·row of qkv,
// row i of the output at out+i·width.
type head struct{ q, k, v, row, out, width int }

func (t *attentionTask) head(h int) head {
	c := t.heads * t.hs
	batch, first := h/t.heads, h%t.heads*t.hs
	q := batch*t.t*3*c + first
	return head{q: q, k: q + c, v: q + 2*c, row: 3 * c, out: batch*t.t*c + first, width: c}
}

// probabilities sets att to row i of a head's.
func (t *attentionTask) probabilities(att []float32, o head, i int) {
	for j := range att {
		att[j] = t.scale * product(t.qkv[o.q+i*o.row:], 1, t.qkv[o.k+j*o.row:], 1, 0, t.hs)
	}
	_, sum := softmaxTerms(att, att)
	r := 1 / sum
	for j := range att {
		att[j] *= r
	}
}

func (reference) attention(t *attentionTask, h0, h1 int) {
	att := make([]float32, t.t)
	for h := h0; h < h1; h++ {
		o := t.head(h)
		for i := range t.t {
			row := att[:i+1]
			t.probabilities(row, o, i)
			for d := range t.hs {
				t.out[o.out+i*o.width+d] = product(row, 1, t.qkv[o.v+d:], o.row, 0, i+1)
			}
		}
	}
}

func (reference) attentionBackward(t *attentionTask, h0, h1 int) {
	atts, dzs := make([]float32, t.t*t.t), make([]float32, t.t*t.t)
	for h := h0; h < h1; h++ {
		o := t.head(h)
		for i := range t.t {
			att, dz := atts[i*t.t:][:i+1], dzs[i*t.t:][:i+1]
			t.probabilities(att, o, i)
			var dot lanes
			for j := range dz {
				dz[j] = product(t.dout[o.out+i*o.width:], 1, t.qkv[o.v+j*o.row:], 1, 0, t.hs)
				dot.fma(j, att[j], dz[j])
			}
			sum := dot.fold(i + 1)
			for j := range dz {
				dz[j] = float32(float32((dz[j]-sum)*att[j]) * t.scale)
			}
		}
		for i := range t.t {
			for d := range t.hs {
				t.dqkv[o.q+i*o.row+d] = product(dzs[i*t.t:], 1, t.qkv[o.k+d:], o.row, 0, i+1)
				t.dqkv[o.k+i*o.row+d] = product(dzs[i:], t.t, t.qkv[o.q+d:], o.row, i, t.t)
				t.dqkv[o.v+i*o.row+d] = product(atts[i:], t.t, t.dout[o.out+d:], o.width, i, t.t)
			}
		}
	}
}
