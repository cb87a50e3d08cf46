//go:build cuda

package cuda

// #include "launch.h"
import "C"

import "github.com/farandole-ml/farandole/kernels"

func (d *device) Embed(out, wte, wpe kernels.Buffer, tokens kernels.Ints, b, t, c int) {
	const op = "Embed"
	d.shapes.CheckEmbed(op, out, wte, wpe, tokens, b, t, c)
	d.launch(op, kEmbed, along(b*t, C.ROWS_BY_WARP), line(C.ROW_THREADS), 0, address(out), address(wte), address(wpe),
		addressOfInts(tokens), number(b*t), number(t), number(c))
}

func (d *device) EmbedBackward(dwte, dwpe, dout kernels.Buffer, tokens kernels.Ints, b, t, c int) {
	const op = "EmbedBackward"
	d.shapes.CheckEmbed(op, dout, dwte, dwpe, tokens, b, t, c)
	rows := b * t
	d.launch(op, kEmbedBackwardTokens, dim{rows, 1, 1}, line(C.EMBED_THREADS), 0, address(dwte), address(dout), addressOfInts(tokens),
		number(rows), number(c))
	if dwpe != nil {
		d.launch(op, kEmbedBackwardPositions, dim{t, blocks(c, C.EMBED_THREADS), 1}, line(C.EMBED_THREADS), 0, address(dwpe),
			address(dout), number(rows), number(t), number(c))
	}
}

func (d *device) LayerNorm(out, mean, rstd, x, gamma, beta kernels.Buffer, rows, c int) {
	const op = "LayerNorm"
	d.shapes.CheckLayerNorm(op, out, mean, rstd, x, gamma, beta, rows, c)
	d.launch(op, kLayerNorm, along(rows, C.ROWS_BY_HALF_WARP), line(C.ROW_THREADS), 0, address(out), address(mean),
		address(rstd), address(x), address(gamma), address(beta), number(rows), number(c))
}

func (d *device) ResidualLayerNorm(sum, out, mean, rstd, a, b, gamma, beta kernels.Buffer, rows, c int) {
	d.shapes.CheckResidualLayerNorm(sum, out, mean, rstd, a, b, gamma, beta, rows, c)
	d.launch("ResidualLayerNorm", kResidualLayerNorm, along(rows, C.ROWS_BY_HALF_WARP), line(C.ROW_THREADS), 0, address(sum), address(out),
		address(mean), address(rstd), address(a), address(b), address(gamma), address(beta), number(rows), number(c))
}

func (d *device) LayerNormBackward(dx, dgamma, dbeta, dout, x, gamma, mean, rstd kernels.Buffer, rows, c int) {
	const op = "LayerNormBackward"
	d.shapes.CheckLayerNormBackward(dx, dgamma, dbeta, dout, x, gamma, mean, rstd, rows, c)
	d.launch(op, kLayerNormBackwardRows, along(rows, C.ROWS_BY_HALF_WARP), line(C.ROW_THREADS), 0, address(dx), address(dout),
		address(x), address(gamma), address(mean), address(rstd), number(rows), number(c))
	planes := blocks(rows, kernels.BlockK)
	at, ok := d.room(op, scratchPlanes, 2*planes*c)
	if !ok {
		return
	}
	of := [2]uint64{at, at + 4*uint64(planes*c)}
	d.launch(op, kLayerNormBackwardColumns, dim{blocks(c, C.COLUMN_THREADS), planes, 1}, line(C.COLUMN_THREADS), 0, of[0], of[1],
		address(dout), address(x), address(mean), address(rstd), number(rows), number(c))
	d.addPlanes(op, address(dgamma), of[0], 0, 1, c, planes, true)
	d.addPlanes(op, address(dbeta), of[1], 0, 1, c, planes, true)
}

// columnSums enqueues dst[n] += the sums down the columns of x[rows,n].
func (d *device) columnSums(op string, dst, x uint64, rows, n int) {
	planes := blocks(rows, kernels.BlockK)
	at, ok := d.room(op, scratchPlanes, planes*n)
	if !ok {
		return
	}
	d.launch(op, kColumnSums, dim{blocks(n, C.COLUMN_THREADS), planes, 1}, line(C.COLUMN_THREADS), 0, at, x, number(rows), number(n))
	d.addPlanes(op, dst, at, 0, 1, n, planes, true)
}

func (d *device) CrossEntropy(losses, logits kernels.Buffer, targets kernels.Ints, rows, v int, scale float32) {
	d.shapes.CheckCrossEntropy(losses, logits, targets, rows, v)
	d.launch("CrossEntropy", kCrossEntropy, dim{rows, 1, 1}, warps(v, C.CROSS_ENTROPY_THREADS), 0, address(losses), address(logits),
		addressOfInts(targets), number(v), float(scale))
}

func (d *device) Sum(out, x kernels.Buffer)       { d.reduce("Sum", out, x, false) }
func (d *device) SquareSum(out, x kernels.Buffer) { d.reduce("SquareSum", out, x, true) }

func (d *device) reduce(op string, out, x kernels.Buffer, square bool) {
	d.shapes.CheckReduction(op, out, x)
	n := x.Len()
	sums := blocks(n, kernels.BlockSum)
	at, ok := d.room(op, scratchPlanes, max(1, sums))
	if !ok {
		return
	}
	d.launch(op, kBlockSums, along(sums, C.SUM_BLOCKS), line(C.SUM_THREADS), 0, at, address(x), number(n), truth(square))
	d.launch(op, kSumTotal, dim{1, 1, 1}, line(C.SUM_TOTAL_THREADS), 0, address(out), at, number(sums))
}
