package kernels

// engine is one implementation of the canonical arithmetic on host memory. Every method works on a part of its
// task, and parts may run at the same time: which parts a task is cut into never changes a bit.
type engine interface {
	add(dst, a, b []float32)
	scale(x []float32, s float32)
	gelu(out, x []float32)
	geluBackward(dx, out, dout, x []float32) // out may be nil
	relu(out, x []float32)
	reluBackward(dx, dout, x []float32)
	adamW(p, g, m, v []float32, f *AdamWFactors)

	// matmul computes rows [i0,i1) and columns [j0,j1) of t.c.
	matmul(t *matmulTask, i0, i1, j0, j1 int)
	// columnSums adds to columns [j0,j1) of t.dst.
	columnSums(t *columnSumsTask, j0, j1 int)
	// embed writes rows [i0,i1); embedBackward adds to columns [j0,j1).
	embed(t *embedTask, i0, i1 int)
	embedBackward(t *embedTask, j0, j1 int)
	// layerNorm and layerNormRows work on rows [i0,i1), layerNormColumns on columns [j0,j1) of dgamma and dbeta.
	layerNorm(t *layerNormTask, i0, i1 int)
	layerNormRows(t *layerNormTask, i0, i1 int)
	layerNormColumns(t *layerNormTask, j0, j1 int)
	// attention and attentionBackward work on the heads [h0,h1) of all b·heads.
	attention(t *attentionTask, h0, h1 int)
	attentionBackward(t *attentionTask, h0, h1 int)
	// addColumns, maxPool and maxPoolBackward work on the window's positions [from,to); the first and the last add to t.out.
	addColumns(t *windowTask, from, to int)
	maxPool(t *windowTask, from, to int)
	maxPoolBackward(t *windowTask, from, to int)
	// crossEntropy works on rows [i0,i1).
	crossEntropy(t *crossEntropyTask, i0, i1 int)
	// blockSums writes the values of blocks [b0,b1) of x, or of its squares, to dst[b0:b1].
	blockSums(dst, x []float32, square bool, b0, b1 int)

	// reduce and reduce2 run reductions whose arguments fit together, of more than nothing; with stream, they may store
	// past the caches.
	reduce(r *Reduction, dsts, srcs [][]byte, stream bool)
	reduce2(t DType, op RedOp, dst, a, b []byte, stream bool)
	encodeBF16(dst []byte, src []float32)
	decodeBF16(dst []float32, src []byte)
	encodeInt8(dst []byte, src []float32)
	decodeInt8(dst []float32, src []byte)
	residual(x, sent []float32)

	firstNonFinite(x []float32) int
	copyPast(dst, src []byte)
	// fmaLoop does about the given number of floating-point operations in registers and returns how many it did.
	fmaLoop(flops int64) int64
}

// matmulTask is c[i,j] = Σ_k a[i·ai + k·ak]·b[k·bk + j·bj] (+ bias[j]), or += when accumulate is set.
// c has m rows of n.
type matmulTask struct {
	c, a, b, bias  []float32
	m, n, k        int
	ai, ak, bk, bj int
	accumulate     bool
}

// columnSumsTask is dst[j] += Σ_i x[i,j] over rows rows of n.
type columnSumsTask struct {
	dst, x  []float32
	rows, n int
}

// embedTask has the arguments of Embed, or of EmbedBackward with gradients in their place. wpe may be nil.
type embedTask struct {
	x, wte, wpe []float32
	tokens      []int32
	t, c        int
}

type layerNormTask struct {
	out, mean, rstd, x, gamma, beta []float32
	sum, add                        []float32 // with add the rows are those of sum = x + add
	dx, dgamma, dbeta, dout         []float32
	rows, c                         int
}

type attentionTask struct {
	out, qkv        []float32
	dqkv, dout      []float32
	b, t, heads, hs int
	scale           float32
}

type crossEntropyTask struct {
	losses, logits []float32
	targets        []int32
	v              int
	scale          float32
}
