//go:build cuda

package cuda

// #include "launch.h"
import "C"

import "github.com/farandole-ml/farandole/kernels"

// each launches a kernel that treats n values alike.
func (d *device) each(op string, k kernel, n int, args ...uint64) {
	d.launch(op, k, along(n, C.ELEMENT_THREADS*C.ELEMENTS_EACH), line(C.ELEMENT_THREADS), 0, args...)
}

func (d *device) Zero(x kernels.Buffer) {
	d.shapes.CheckOwned("Zero", "x", x)
	if n := x.Len(); n > 0 {
		d.put("Zero", fillZeros).set(address(x), number(n))
	}
}

func (d *device) Copy(dst, src kernels.Buffer) {
	d.shapes.CheckCopy(dst, src)
	if n := src.Len(); n > 0 {
		d.put("Copy", copyOn).set(address(dst), address(src), uint64(4*n))
	}
}

func (d *device) Add(dst, a, b kernels.Buffer) {
	d.shapes.CheckAdd(dst, a, b)
	n := dst.Len()
	d.each("Add", kAdd, n, address(dst), address(a), address(b), number(n))
}

func (d *device) AddRounded(dst, a, b kernels.Buffer) {
	d.shapes.CheckAddRounded(dst, a, b)
	d.each("AddRounded", kAddRounded, dst.Len(), address(dst), address(a), address(b), number(dst.Len()))
}

func (d *device) Scale(x kernels.Buffer, s float32) {
	d.shapes.CheckOwned("Scale", "x", x)
	d.each("Scale", kScale, x.Len(), address(x), float(s), number(x.Len()))
}

func (d *device) GELU(out, x kernels.Buffer) {
	d.shapes.CheckActivation("GELU", out, x)
	d.each("GELU", kGELU, x.Len(), address(out), address(x), number(x.Len()))
}

func (d *device) ReLU(out, x kernels.Buffer) {
	d.shapes.CheckActivation("ReLU", out, x)
	d.each("ReLU", kReLU, x.Len(), address(out), address(x), number(x.Len()))
}

func (d *device) GELUBackward(dx, out, dout, x kernels.Buffer) {
	const op = "GELUBackward"
	d.shapes.CheckActivationBackward(op, dx, out, dout, x)
	d.each(op, kGELUBackward, x.Len(), address(dx), address(out), address(dout), address(x), number(x.Len()))
}

func (d *device) ReLUBackward(dx, dout, x kernels.Buffer) {
	const op = "ReLUBackward"
	d.shapes.CheckActivationBackward(op, dx, nil, dout, x)
	d.each(op, kReLUBackward, x.Len(), address(dx), address(dout), address(x), number(x.Len()))
}

func (d *device) AdamW(p, g, m, v kernels.Buffer, gscale float32, a kernels.AdamW) {
	d.shapes.CheckAdamW(p, g, m, v, a)
	f, n := a.Factors(gscale), p.Len()
	d.each("AdamW", kAdamW, n, address(p), address(g), address(m), address(v), number(n), float(f.LR), float(f.Beta1), float(f.Beta2),
		float(f.Eps), float(f.Decay), float(f.Rest1), float(f.Rest2), float(f.C1), float(f.C2), float(f.Scale))
}
