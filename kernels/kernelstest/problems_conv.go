package kernelstest

import (
	"fmt"
	"math/rand/v2"

	"github.com/farandole-ml/farandole/kernels"
)

func window(images, height, width, channels, rows, columns, stride, pad int) kernels.Window {
	return kernels.Window{Images: images, Height: height, Width: width, Channels: channels, Rows: rows, Columns: columns, Stride: stride, Pad: pad}
}

// sliding is a window of any kind over a few small images.
func sliding(r *rand.Rand, size int) kernels.Window {
	rows, columns := 1+r.IntN(4), 1+r.IntN(4)
	pad := r.IntN(min(rows, columns))
	height, width := max(1, rows-2*pad)+r.IntN(9), max(1, columns-2*pad)+r.IntN(9)
	return window(1+r.IntN(4), height, width, dim(r, size), rows, columns, 1+r.IntN(3), pad)
}

func named(op string, g kernels.Window, filters int) string {
	return fmt.Sprintf("%s %+v filters=%d", op, g, filters)
}

// sizes are the lengths of images and results.
func sizes(g kernels.Window, filters int) (x, out int) {
	height, width := g.Out()
	return g.Images * g.Height * g.Width * g.Channels, g.Images * height * width * filters
}

func conv(r *rand.Rand, size int) Problem { return convOf(r, sliding(r, size/2), dim(r, size/2)) }

func convOf(r *rand.Rand, g kernels.Window, filters int) Problem {
	x, n := sizes(g, filters)
	k := g.Rows * g.Columns * g.Channels
	p := Problem{
		Name:   named("Conv", g, filters),
		Rounds: kernels.RoundsFactors,
		Buffers: []Argument{out("out", n, summed(k)), in("x", normal(r, x, 1)), in("w", normal(r, filters*k, 1)),
			in("bias", normal(r, filters, 1))},
		Call: func(d kernels.Device, b []kernels.Buffer, _ kernels.Ints) { d.Conv(b[0], b[1], b[2], b[3], filters, g) },
		Want: func(in [][]float64) [][]float64 { return [][]float64{Conv64(in[1], in[2], in[3], filters, g)} },
	}
	if r.IntN(3) == 0 {
		p.Name += " no bias"
		p.Call = func(d kernels.Device, b []kernels.Buffer, _ kernels.Ints) { d.Conv(b[0], b[1], b[2], nil, filters, g) }
		p.Want = func(in [][]float64) [][]float64 { return [][]float64{Conv64(in[1], in[2], nil, filters, g)} }
	}
	return p
}

func convBackward(r *rand.Rand, size int) Problem {
	return convBackwardOf(r, sliding(r, size/2), dim(r, size/2))
}

func convBackwardOf(r *rand.Rand, g kernels.Window, filters int) Problem {
	x, n := sizes(g, filters)
	k := g.Rows * g.Columns * g.Channels
	p := Problem{
		Name:   named("ConvBackward", g, filters),
		Rounds: kernels.RoundsFactors,
		Buffers: []Argument{out("dx", x, summed(filters*g.Rows*g.Columns)), inout("dw", normal(r, filters*k, 1), summed(n/filters)),
			inout("dbias", normal(r, filters, 1), summed(n/filters)),
			in("dout", normal(r, n, 1)), in("x", normal(r, x, 1)), in("w", normal(r, filters*k, 1))},
		Call: func(d kernels.Device, b []kernels.Buffer, _ kernels.Ints) {
			d.ConvBackward(b[0], b[1], b[2], b[3], b[4], b[5], filters, g)
		},
		Want: func(in [][]float64) [][]float64 {
			dx, dw, dbias := ConvBackward64(in[3], in[4], in[5], filters, g)
			return [][]float64{dx, plus(in[1], dw), plus(in[2], dbias)}
		},
	}
	if r.IntN(3) == 0 { // the first layer: its input needs no gradient
		p.Name += " only dw"
		p.Buffers[0].Written, p.Buffers[2].Written = false, false
		p.Call = func(d kernels.Device, b []kernels.Buffer, _ kernels.Ints) {
			d.ConvBackward(nil, b[1], nil, b[3], b[4], b[5], filters, g)
		}
		p.Want = func(in [][]float64) [][]float64 {
			_, dw, _ := ConvBackward64(in[3], in[4], in[5], filters, g)
			return [][]float64{plus(in[1], dw)}
		}
	}
	return p
}

func maxPool(r *rand.Rand, size int) Problem { return maxPoolOf(r, sliding(r, size)) }

func maxPoolOf(r *rand.Rand, g kernels.Window) Problem {
	x, n := sizes(g, g.Channels)
	return Problem{
		Name:    named("MaxPool", g, g.Channels),
		Buffers: []Argument{out("out", n, exact), in("x", normal(r, x, 1))},
		Call:    func(d kernels.Device, b []kernels.Buffer, _ kernels.Ints) { d.MaxPool(b[0], b[1], g) },
		Want: func(in [][]float64) [][]float64 {
			out, _ := MaxPool64(in[1], g)
			return [][]float64{out}
		},
	}
}

func maxPoolBackward(r *rand.Rand, size int) Problem { return maxPoolBackwardOf(r, sliding(r, size)) }

func maxPoolBackwardOf(r *rand.Rand, g kernels.Window) Problem {
	x, n := sizes(g, g.Channels)
	pixels := normal(r, x, 1)
	for i := range pixels {
		if r.IntN(3) == 0 { // as after a ReLU: several are the largest, and the first counts
			pixels[i] = 1.5
		}
	}
	return Problem{
		Name:    named("MaxPoolBackward", g, g.Channels),
		Buffers: []Argument{out("dx", x, summed(g.Rows*g.Columns)), in("dout", normal(r, n, 1)), in("x", pixels)},
		Call:    func(d kernels.Device, b []kernels.Buffer, _ kernels.Ints) { d.MaxPoolBackward(b[0], b[1], b[2], g) },
		Want: func(in [][]float64) [][]float64 {
			return [][]float64{MaxPoolBackward64(in[1], in[2], g)}
		},
	}
}
