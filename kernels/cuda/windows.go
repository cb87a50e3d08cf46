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
func stretches(g kernels.Window, f func(p0, p1 int)) {
	all := g.Positions()
	step := g.Stretch(maxColumns)
	for p0 := 0; p0 < all; p0 += step {
		f(p0, min(p0+step, all))
	}
}

// columns enqueues the matrix of what is under the window at positions [p0,p1), and says where it is.
func (d *device) columns(op string, x uint64, g kernels.Window, p0, p1 int) (at uint64, ok bool) {
	n := (p1 - p0) * g.Under()
	if at, ok = d.room(op, scratchColumns, n); ok {
		d.window(op, kWindowColumns, n, []uint64{at, x}, g, number(p0), number(p1))
	}
	return at, ok
}

func (d *device) Conv(out, x, w, bias kernels.Buffer, filters int, g kernels.Window) {
	const op = "Conv"
	d.shapes.CheckConv(out, x, w, bias, filters, g)
	stretches(g, func(p0, p1 int) {
		if columns, ok := d.columns(op, address(x), g, p0, p1); ok {
			d.multiply(op, product{kernel: kMatmulNT, c: address(out) + 4*uint64(p0*filters), a: columns, b: address(w),
				bias: address(bias), m: p1 - p0, n: filters, k: g.Under()})
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
	stretches(g, func(p0, p1 int) {
		n, part := p1-p0, address(dout)+4*uint64(p0*filters)
		columns, ok := d.columns(op, address(x), g, p0, p1)
		if !ok {
			return
		}
		if dx != nil {
			gradient, ok := d.room(op, scratchGradient, n*under)
			if !ok {
				return
			}
			d.multiply(op, inputGradient(gradient, part, address(w), n, filters, under))
			d.window(op, kWindowImages, g.Inputs(), []uint64{address(dx), gradient, number(g.Images)}, g, number(p0), number(p1))
		}
		d.multiply(op, weightGradient(address(dw), part, columns, n, filters, under))
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
