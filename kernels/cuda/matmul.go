//go:build cuda

package cuda

// #include "launch.h"
import "C"

import "github.com/farandole-ml/farandole/kernels"

// maxPlanes bounds the memory for canonical blocks that are computed side by side, in values: 64 MiB.
const maxPlanes = 16 << 20

// product is c[m,n] = or += Σ_k a·b, then + bias[n], addresses as the kernel wants them.
type product struct {
	kernel        kernel
	c, a, b, bias uint64
	m, n, k       int
	accumulate    bool
}

// multiply enqueues a product. Where its tiles leave multiprocessors idle, canonical blocks of k are computed
// side by side and added up afterwards, in order: the same bits.
func (d *device) multiply(op string, p product) {
	x, y := blocks(p.n, C.MATMUL_COLUMNS), blocks(p.m, C.MATMUL_ROWS)
	all := blocks(p.k, kernels.BlockK)
	planes := min(all, d.processors/(x*y), max(1, maxPlanes/(p.m*p.n)))
	if planes < 2 {
		d.launchProduct(op, p, dim{x, y, 1}, 0, 0, p.accumulate, p.bias)
		return
	}
	at, ok := d.room(op, scratchPlanes, planes*p.m*p.n)
	for first := 0; ok && first < all; first += planes {
		count, bias := min(planes, all-first), uint64(0)
		if first+count == all {
			bias = p.bias
		}
		d.launchProduct(op, p, dim{x, y, count}, at, first, false, 0)
		d.addPlanes(op, p.c, at, bias, p.m, p.n, count, p.accumulate || first > 0)
	}
}

func (d *device) launchProduct(op string, p product, grid dim, planes uint64, first int, accumulate bool, bias uint64) {
	d.launch(op, p.kernel, grid, line(C.MATMUL_THREADS), 0, p.c, p.a, p.b, bias, planes, number(p.m), number(p.n), number(p.k),
		number(first), truth(accumulate))
}

// addPlanes enqueues dst[rows,n] = or += the planes in order, then + bias.
func (d *device) addPlanes(op string, dst, planes, bias uint64, rows, n, count int, accumulate bool) {
	d.launch(op, kAddPlanes, along(rows*n, C.ELEMENT_THREADS), line(C.ELEMENT_THREADS), 0, dst, planes, bias, number(rows), number(n),
		number(count), truth(accumulate))
}

func (d *device) Linear(out, x, w, bias kernels.Buffer, m, n, k int) {
	d.shapes.CheckLinear(out, x, w, bias, m, n, k)
	d.multiply("Linear", product{kernel: kMatmulNT, c: address(out), a: address(x), b: address(w), bias: address(bias), m: m, n: n, k: k})
}

func (d *device) LinearBackwardInput(dx, dout, w kernels.Buffer, m, n, k int) {
	d.shapes.CheckLinearBackwardInput(dx, dout, w, m, n, k)
	d.multiply("LinearBackwardInput", inputGradient(address(dx), address(dout), address(w), m, n, k))
}

func (d *device) LinearBackward(dx, dw, dbias, dout, x, w kernels.Buffer, m, n, k int) {
	const op = "LinearBackward"
	d.shapes.CheckLinearBackward(dx, dw, dbias, dout, x, w, m, n, k)
	if dx != nil {
		d.multiply(op, inputGradient(address(dx), address(dout), address(w), m, n, k))
	}
	d.multiply(op, weightGradient(address(dw), address(dout), address(x), m, n, k))
	if dbias != nil {
		d.columnSums(op, address(dbias), address(dout), m, n)
	}
}

// inputGradient is dx[m,k] = dout[m,n]·w[n,k]; weightGradient is dw[n,k] += doutᵀ·x[m,k].
func inputGradient(dx, dout, w uint64, m, n, k int) product {
	return product{kernel: kMatmulNN, c: dx, a: dout, b: w, m: m, n: k, k: n}
}

func weightGradient(dw, dout, x uint64, m, n, k int) product {
	return product{kernel: kMatmulTN, c: dw, a: dout, b: x, m: n, n: k, k: m, accumulate: true}
}
