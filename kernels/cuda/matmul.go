//go:build cuda

package cuda

// #include "launch.h"
import "C"

import "github.com/farandole-ml/farandole/kernels"

// maxPlanes bounds the memory for canonical blocks that are computed side by side, in values: 64 MiB.
const maxPlanes = 16 << 20

// layout says which of a product's factors have neighbours along k.
type layout int

const (
	layoutNT layout = iota // a[m,k]·b[n,k]ᵀ
	layoutNN               // a[m,k]·b[k,n]
	layoutTN               // a[k,m]ᵀ·b[k,n]
	layoutCount
)

// factor is a matrix as the device's kernels of products want it: where rounded, rows of bfloat16 that are stride values apart.
type factor struct {
	at     uint64
	stride int
}

// product is c[m,n] = or += Σ_k a·b, then + bias[n].
type product struct {
	layout     layout
	c          uint64
	a, b       factor
	bias       uint64
	m, n, k    int
	accumulate bool
}

// tiling is the kernels of products of a numerics class, and how they cut their work: into tiles of the result, and into canonical
// blocks of k.
type tiling struct {
	kernels              [layoutCount]kernel
	rows, columns, terms int
	rounded              bool // factors are bfloat16
}

var (
	tilingF32 = tiling{[...]kernel{layoutNT: kMatmulNT, layoutNN: kMatmulNN, layoutTN: kMatmulTN},
		C.MATMUL_ROWS, C.MATMUL_COLUMNS, kernels.BlockK, false}
	tilingBF16 = tiling{[...]kernel{layoutNT: kMatmulBF16NT, layoutNN: kMatmulBF16NN, layoutTN: kMatmulBF16TN},
		C.MMA_ROWS, C.MMA_COLUMNS, kernels.BlockMMA, true}

	_ = [1]int{}[C.MMA_BLOCK-kernels.BlockMMA] // they are equal
)

// multiply enqueues a product. Where its tiles leave multiprocessors idle, canonical blocks of k are computed
// side by side and added up afterwards, in order: the same bits.
func (d *device) multiply(op string, p product) {
	if d.cublasLt != nil && d.multiplyByLibrary(op, p) {
		return
	}
	t := d.tiling
	all := blocks(p.k, t.terms)
	planes := sideBySide(all, blocks(p.n, t.columns)*blocks(p.m, t.rows), d.processors, maxPlanes/(p.m*p.n))
	if planes < 2 {
		d.launchProduct(op, p, 1, 0, 0, p.accumulate, p.bias)
		return
	}
	at, ok := d.room(op, scratchPlanes, planes*p.m*p.n)
	for first := 0; ok && first < all; first += planes {
		count, bias := min(planes, all-first), uint64(0)
		if first+count == all {
			bias = p.bias
		}
		d.launchProduct(op, p, count, at, first, false, 0)
		d.addPlanes(op, p.c, at, bias, p.m, p.n, count, p.accumulate || first > 0)
	}
}

// maxWaves bounds how often multiprocessors take another tile in one launch of planes: more would balance little.
const maxWaves = 8

// sideBySide is how many of all canonical blocks to compute at a time, at most room of them, so that multiprocessors with a tile
// each are done soonest; the least such number.
func sideBySide(all, tiles, processors, room int) int {
	best, least := 1, all*blocks(tiles, processors)
	for n := 2; n <= min(all, room, maxWaves*processors/tiles); n++ {
		if waves := all/n*blocks(n*tiles, processors) + blocks(all%n*tiles, processors); waves < least {
			best, least = n, waves
		}
	}
	return best
}

func (d *device) launchProduct(op string, p product, count int, planes uint64, first int, accumulate bool, bias uint64) {
	t := d.tiling
	k, x, y := t.kernels[p.layout], blocks(p.n, t.columns), blocks(p.m, t.rows)
	if t.rounded {
		d.launch(op, k, dim{x * y, 1, count}, line(C.MMA_THREADS), sharedBytes[k], p.c, p.a.at, p.b.at, bias, planes, number(p.m),
			number(p.n), number(p.k), number(p.a.stride), number(p.b.stride), number(first), truth(accumulate))
		return
	}
	d.launch(op, k, dim{x, y, count}, line(C.MATMUL_THREADS), 0, p.c, p.a.at, p.b.at, bias, planes, number(p.m), number(p.n),
		number(p.k), number(first), truth(accumulate))
}

// addPlanes enqueues dst[rows,n] = or += the planes in order, then + bias.
func (d *device) addPlanes(op string, dst, planes, bias uint64, rows, n, count int, accumulate bool) {
	d.launch(op, kAddPlanes, along(rows*n, C.ELEMENT_THREADS), line(C.ELEMENT_THREADS), 0, dst, planes, bias, number(rows), number(n),
		number(count), truth(accumulate))
}

// factor gives x[rows,columns] as products want it. Rounded it lies in scratch memory, until the next factor for the same purpose.
func (d *device) factor(op string, p purpose, x uint64, rows, columns int) (f factor, ok bool) {
	if !d.tiling.rounded {
		return factor{at: x}, true
	}
	f.stride = blocks(columns, C.ENCODE_EACH) * C.ENCODE_EACH
	if f.at, ok = d.room(op, p, rows*f.stride/2); ok {
		d.launch(op, kEncodeBF16, along(rows*f.stride, C.ELEMENT_THREADS*C.ENCODE_EACH), line(C.ELEMENT_THREADS), 0, f.at, x,
			number(rows), number(columns), number(f.stride))
	}
	return f, ok
}

func (d *device) Linear(out, x, w, bias kernels.Buffer, m, n, k int) {
	const op = "Linear"
	d.shapes.CheckLinear(out, x, w, bias, m, n, k)
	a, ok := d.factor(op, scratchA, address(x), m, k)
	if !ok {
		return
	}
	if b, ok := d.factor(op, scratchB, address(w), n, k); ok {
		d.multiply(op, product{layout: layoutNT, c: address(out), a: a, b: b, bias: address(bias), m: m, n: n, k: k})
	}
}

func (d *device) LinearBackwardInput(dx, dout, w kernels.Buffer, m, n, k int) {
	const op = "LinearBackwardInput"
	d.shapes.CheckLinearBackwardInput(dx, dout, w, m, n, k)
	if a, ok := d.factor(op, scratchA, address(dout), m, n); ok {
		d.inputGradient(op, address(dx), a, address(w), m, n, k)
	}
}

func (d *device) LinearBackward(dx, dw, dbias, dout, x, w kernels.Buffer, m, n, k int) {
	const op = "LinearBackward"
	d.shapes.CheckLinearBackward(dx, dw, dbias, dout, x, w, m, n, k)
	a, ok := d.factor(op, scratchA, address(dout), m, n)
	if !ok {
		return
	}
	if dx != nil {
		d.inputGradient(op, address(dx), a, address(w), m, n, k)
	}
	if b, ok := d.factor(op, scratchB, address(x), m, k); ok {
		d.weightGradient(op, address(dw), a, b, m, n, k)
	}
	if dbias != nil {
		d.columnSums(op, address(dbias), address(dout), m, n)
	}
}

// inputGradient enqueues dx[m,k] = dout[m,n]·w[n,k], whose factor w becomes scratchB; weightGradient dw[n,k] += doutᵀ·x[m,k].
func (d *device) inputGradient(op string, dx uint64, dout factor, w uint64, m, n, k int) {
	if b, ok := d.factor(op, scratchB, w, n, k); ok {
		d.multiply(op, product{layout: layoutNN, c: dx, a: dout, b: b, m: m, n: k, k: n})
	}
}

func (d *device) weightGradient(op string, dw uint64, dout, x factor, m, n, k int) {
	d.multiply(op, product{layout: layoutTN, c: dw, a: dout, b: x, m: n, n: k, k: m, accumulate: true})
}
