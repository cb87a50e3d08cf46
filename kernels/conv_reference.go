package kernels

// addColumns adds the columns of positions [from,to) to the pixels that they were made of, in that order.
func (reference) addColumns(t *windowTask, from, to int) {
	c := t.Channels
	for p := from; p < to; p++ {
		row := t.x[(p-t.p0)*t.under:][:t.under]
		image, y, x := t.corner(p)
		for ky := range t.Rows {
			for kx := range t.Columns {
				if y+ky < 0 || y+ky >= t.Height || x+kx < 0 || x+kx >= t.Width {
					continue
				}
				dst := t.out[((image*t.Height+y+ky)*t.Width+x+kx)*c:][:c]
				for i, v := range row[(ky*t.Columns+kx)*c:][:c] {
					dst[i] += v
				}
			}
		}
	}
}

// largest is where in t.x the largest value of channel i under the window at position p is: the first of several, the last NaN.
func (t *windowTask) largest(p, i int) int {
	image, y, x := t.corner(p)
	at := -1
	for ky := max(0, -y); ky < min(t.Rows, t.Height-y); ky++ {
		for kx := max(0, -x); kx < min(t.Columns, t.Width-x); kx++ {
			pixel := ((image*t.Height+y+ky)*t.Width+x+kx)*t.Channels + i
			if v := t.x[pixel]; at < 0 || v > t.x[at] || v != v {
				at = pixel
			}
		}
	}
	return at
}

func (reference) maxPool(t *windowTask, from, to int) {
	for p := from; p < to; p++ {
		for i := range t.Channels {
			t.out[p*t.Channels+i] = t.x[t.largest(p, i)]
		}
	}
}

func (reference) maxPoolBackward(t *windowTask, from, to int) {
	for p := from; p < to; p++ {
		for i := range t.Channels {
			t.out[t.largest(p, i)] += t.dout[p*t.Channels+i]
		}
	}
}
