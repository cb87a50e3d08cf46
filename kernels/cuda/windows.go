//go:build cuda

package cuda

// #include "launch.h"
import "C"

import "github.com/farandole-ml/farandole/kernels"

// maxColumns bounds the matrix of columns that a convolution makes at a time, in values: 64 MiB.
const maxColumns = 16 << 20

// window launches a kernel on n values; the window's parameters come between the arguments before and behind.
func (d *device) window(op string, k kernel, n int, before []uint64, g kernels.Window, behind ...uint64) {
	height, width := g.Out()
	args := [maxArgs]uint64{}
	all := append(args[:0], before...)
	for _, x := range [...]int{g.Height, g.Width, g.Channels, g.Rows, g.Columns, g.Stride, g.Pad, height, width} {
		all = append(all, number(x))
	}
	all = append(all, behind...)
	d.launch(op, k, along(n, C.ELEMENT_THREADS), line(C.ELEMENT_THREADS), 0, all...)
}

// stretches calls f for the positions of g, as many at a time as columns fit: whole canonical blocks.
func (d *device) stretches(g kernels.Window, f func(p0, p1 int)) {
	all := g.Positions()
	step := g.Stretch(maxColumns, d.tiling.terms)
	for p0 := 0; p0 < all; p0 += step {
		f(p0, min(p0+step, all))
	}
}

// columns gives the matrix of what is under the window at positions [p0,p1), as a factor for purpose p.
func (d *device) columns(op string, p purpose, x uint64, g kernels.Window, p0, p1 int) (f factor, ok bool) {
	n := (p1 - p0) * g.Under()
	at, ok := d.room(op, scratchColumns, n)
	if !ok {
		return f, false
	}
	d.window(op, kWindowColumns, n, []uint64{at, x}, g, number(p0), number(p1))
	return d.factor(op, p, at, p1-p0, g.Under())
}

func (d *device) Conv(out, x, w, bias kernels.Buffer, filters int, g kernels.Window) {
	const op = "Conv"
	d.shapes.CheckConv(out, x, w, bias, filters, g)
	b, ok := d.factor(op, scratchB, address(w), filters, g.Under())
	if !ok {
		return
	}
	d.stretches(g, func(p0, p1 int) {
		if a, ok := d.columns(op, scratchA, address(x), g, p0, p1); ok {
			d.multiply(op, product{layout: layoutNT, c: address(out) + 4*uint64(p0*filters), a: a, b: b, bias: address(bias), m: p1 - p0,
				n: filters, k: g.Under()})
		}
	})
}

func (d *device) ConvBackward(dx, dw, dbias, dout, x, w kernels.Buffer, filters int, g kernels.Window) {
	const op = "ConvBackward"
	d.shapes.CheckConvBackward(dx, dw, dbias, dout, x, w, filters, g)
	if dx != nil {
		d.Zero(dx)
	}
	under := g.Under()
	d.stretches(g, func(p0, p1 int) {
		n, part := p1-p0, address(dout)+4*uint64(p0*filters)
		a, ok := d.factor(op, scratchA, part, n, filters)
		if !ok {
			return
		}
		if dx != nil {
			gradient, ok := d.room(op, scratchGradient, n*under)
			if !ok {
				return
			}
			d.inputGradient(op, gradient, a, address(w), n, filters, under)
			d.window(op, kWindowImages, g.Inputs(), []uint64{address(dx), gradient, number(g.Images)}, g, number(p0), number(p1))
		}
		if b, ok := d.columns(op, scratchB, address(x), g, p0, p1); ok {
			d.weightGradient(op, address(dw), a, b, n, filters, under)
		}
		if dbias != nil {
			d.columnSums(op, address(dbias), part, n, filters)
		}
	})
}

func (d *device) MaxPool(out, x kernels.Buffer, g kernels.Window) {
	d.shapes.CheckMaxPool(out, x, g)
	d.window("MaxPool", kMaxPool, out.Len(), []uint64{address(out), address(x), number(g.Images)}, g)
}

func (d *device) MaxPoolBackward(dx, dout, x kernels.Buffer, g kernels.Window) {
	d.shapes.CheckMaxPoolBackward(dx, dout, x, g)
	d.window("MaxPoolBackward", kMaxPoolBackward, dx.Len(), []uint64{address(dx), address(dout), address(x), number(g.Images)}, g)
}
