package kernels

import (
	"math"
	"strings"
)

// The canonical arithmetic of class "f32"
//
// This comment defines the bits. An implementation in any language on any machine that follows it belongs to the
// class; NewReference is the same definition as plain Go. Two results are the same when they have the same bits,
// or are both NaN (which NaN is not defined).
//
// All values are IEEE 754 binary32, rounded to nearest even, with subnormal numbers kept (no flush to zero).
// +, -, ×, ÷ and √ are rounded once each and never contracted; fma(a,b,c) is a·b+c rounded once and is used only
// where this text says fma. Constants stand below; decimal literals in this text are their rounded float32.
//
// Products of matrices. One output element is Σ_k a_k·b_k. The indices k are cut into blocks of BlockK starting
// at k=0. A block's value is the chain s = +0; s = fma(a_k, b_k, s) in increasing k. An overwriting operation sets
// c to the first block's value and adds the others in order, c = c + s; an accumulating one adds every block's
// value, the first one too, to what is there. A bias is added last, c = c + bias.
//
//	Linear          out[i,j]  = Σ_k x[i,k]·w[j,k], then + bias[j]
//	LinearBackward  dx[i,k]   = Σ_j dout[i,j]·w[j,k]
//	                dw[j,k]  += Σ_i dout[i,j]·x[i,k]
//	                dbias[j] += Σ_i dout[i,j], blocks over i as above, each the chain s = +0; s = s + dout[i,j]
//
// Convolution. A window has positions, image by image and row by row; the pixels under it at position p, rows and channels
// last, with +0 outside the image, are row p of a matrix X. Conv is Linear of X, and ConvBackward's dw and dbias are those of
// LinearBackward; with dX[p,k] = Σ_j dout[p,j]·w[j,k], dx at a pixel is the chain s = +0; s = s + dX[p,k] over the
// positions whose window covers the pixel, in order.
//
// MaxPool: m = the first pixel under the window; m = v for each further pixel, row by row, where v > m or v is NaN.
// MaxPoolBackward: +0, then for each window in order + dout at the pixel that is m.
//
// The order of factors does not matter. In attention the blocks start at index 0 as well, also where a sum starts
// later (below): a block that has no term is left out and does not count as the first.
//
// Lane sums. "lanes(x_0 … x_{n-1})" has Lanes accumulators that start at +0. Element e goes to lane e mod Lanes, in
// increasing order: acc = acc + x_e; for a sum of products, lanes(x·y), acc = fma(x_e, y_e, acc). When n is no
// multiple of Lanes the missing elements of the last round are +0 and take part. The lanes are then folded:
// acc[l] += acc[l+8] for l < 8, then acc[l] += acc[l+4] for l < 4, acc[l] += acc[l+2] for l < 2, acc[0] += acc[1].
//
// Sum, SquareSum. Blocks of BlockSum elements; a block's value is lanes(x) or lanes(x·x). The blocks' values are
// widened to float64 and added there in order, starting from +0; the result is rounded to float32.
//
// exp(x): if x < ExpLow, x = ExpLow; if x > ExpHigh, x = ExpHigh (NaN stays). t = fma(x, log2e, expMagic);
// n = t - expMagic; r = fma(n, -ln2Hi, x); r = fma(n, -ln2Lo, r); p = c6; p = fma(p, r, c_i) for c5 … c0;
// i = bits(t) - bits(expMagic) as int32; h = i >> 1 (arithmetic);
// the result is (p · 2^h) · 2^(i-h), each power of two built from its exponent bits.
//
// log(x), for normal positive x: i = bits(x) - bits(√½); e = i >> 23 (arithmetic); m = float(bits(x) - (e << 23));
// f = m - 1; p = l8; p = fma(p, f, l_i) for l7 … l0; q = f·f; y = f·q; y = y·p; y = fma(e, ln2Lo, y);
// y = fma(-0.5, q, y); y = f + y; the result is fma(e, ln2Hi, y). +Inf and NaN give themselves.
//
// Softmax of a row x of n elements: M = max x; e_j = exp(x_j - M); s = lanes(e); r = 1 / s; p_j = e_j·r.
//
// Attention, for one batch and head, with q_i, k_i, v_i rows of hs values and scale = 1/√hs (1 ÷ √, in float32):
// z_ij = scale · (Σ_d q_id·k_jd) for j ≤ i; att_i = softmax(z_i0 … z_ii);
// out_id = Σ_{j ≤ i} att_ij·v_jd. Backward:
//
//	dp_ij = Σ_d dout_id·v_jd for j ≤ i       D_i = lanes(att_i·dp_i) over j ≤ i
//	dz_ij = ((dp_ij - D_i) · att_ij) · scale
//	dq_id = Σ_{j ≤ i} dz_ij·k_jd    dk_jd = Σ_{i ≥ j} dz_ij·q_id    dv_jd = Σ_{i ≥ j} att_ij·dout_id
//
// all sums being products of matrices as above. Terms above the diagonal do not exist: they are not even zeros.
//
// LayerNorm of a row: mean = lanes(x) ÷ c; d_j = x_j - mean; rstd = 1 ÷ √(lanes(d·d) ÷ c + eps);
// n_j = d_j·rstd; out_j = fma(n_j, gamma_j, beta_j). In lanes(d·d) a missing element has d = +0. Backward:
//
//	g_j = dout_j·gamma_j    a = lanes(g) ÷ c    b = lanes(g·n) ÷ c
//	dx_j = fma(fma(-n_j, b, g_j - a), rstd, dx_j)
//	dgamma_j += Σ_rows dout_j·n_j    dbeta_j += Σ_rows dout_j    (as dw and dbias: blocks of BlockK rows, fma for dgamma)
//
// GELU, tanh form, written with the logistic function: ½x(1+tanh u) = x·σ(2u), u = √(2/π)(x + 0.044715x³).
// y = x limited to ±geluLimit (NaN stays); q = y·y; u2 = y·fma(q, geluCubic, geluLinear), which is 2u; a = exp(-|u2|);
// d = 1 ÷ (1 + a); s = d where u2 ≥ 0, else a·d. GELU: out = x·s.
// GELUBackward: w = fma(q, geluCubic3, geluLinear), which is d(2u)/dx; t = (a·d)·d; t = (y·w)·t; dx = dout·(s + t).
//
// ReLU: +0 where x ≤ 0, else x (so NaN stays). ReLUBackward: dout where x > 0, else +0.
//
// CrossEntropy, row x with target y: softmax as above; loss = log(s) - (x_y - M);
// gradient_j = (p_j - 1)·scale at the target, p_j·scale elsewhere.
//
// Embed: wte + wpe, one addition. EmbedBackward: one addition per token, in order of i.
//
// AdamW, with the factors of AdamW.Factors: h = g·gscale; m = fma(Beta1, m, (1-Beta1)·h);
// v = fma(Beta2, v, ((1-Beta2)·h)·h); u = (m·c1) ÷ (√(v·c2) + Eps); u = fma(Decay, p, u); p = fma(-LR, u, p).
//
// # Class "bf16"
//
// The factors of Linear, LinearBackwardInput and LinearBackward are rounded to bfloat16 before they are multiplied: to
// nearest even, but a subnormal number to a zero of its sign. The value of a block, which has terms 0 … n-1, is the chain
// s = +0; s = d(a_1, b_1, s); s = d(a_0, b_0, s); s = d(a_3, b_3, s); s = d(a_2, b_2, s); and so on: pairs in increasing order,
// the second term of a pair first. When n is odd, a_n and b_n are +0 and take part. d(a,b,c) is a·b+c rounded once, to nearest even
// and to 24 bits whatever the exponent; if its magnitude is less than 2⁻¹²⁶ then, it becomes a zero of its sign. This is
// what vdpbf16ps does. Blocks, what is accumulated to and a bias are added as above, without flushing; dbias adds values
// that were not rounded. All other operations, attention too, are those of class f32.
//
// # Class "bf16-amx"
//
// The same, but an output is one chain over all terms, in groups of 32; where the last one lacks terms, factors +0 take part. A group's value is
// g = s_even + s_odd, the chains s = +0; s = d(a_i, b_i, s) over its even and its odd terms. The output's chain begins with what is accumulated
// to, or else with the bias, or else with +0: c = c + g for each group in order. These sums are rounded as d is, which makes zeros of small
// results, and subnormal numbers in them count as zeros of their sign. This is what tdpbf16ps does.
//
// # Classes "bf16-mma-sm_80", "bf16-mma-sm_90" …
//
// These are of GPUs, one for each compute capability. The factors of the same operations are rounded to bfloat16, subnormal numbers
// too, to nearest even. The value of a block, which has BlockMMA terms instead of BlockK, is a chain of the instruction
// mma.sync m16n8k16 that begins with +0, takes 16 terms at a time in increasing order, and ends with +0 in place of terms up to a
// multiple of 32. What the instruction does with 16 terms and a sum, the PTX manual leaves to the GPU: GPUs of one compute capability are
// taken to do the same. Blocks, what is accumulated to and a bias are added as in class f32.
//
// Attention of heads of up to MaxRoundedHead values multiplies bfloat16 there too; the text on that is in docs/algorithms.md.
// All else is class f32.
//
// # Class "bf16-wgmma-sm_90"
//
// The same, but linear layers and convolutions have wgmma.mma_async m64n256k16 in place of mma.sync: a chain's first instruction adds to
// nothing, and +0 are in place of terms up to a multiple of 64. Its bits need not be those of "bf16-mma-sm_90". GPUs of compute capability 9.0
// have this class where their products are found right, as they are opened.
//
// # Classes "bf16-cublaslt-sm_90-120903-132"
//
// The same, but linear layers and convolutions have the products of cuBLASLt, of that version on a GPU with that many multiprocessors, in
// the library's own order. Shapes for which it has no algorithm are those of "bf16-mma-sm_90".
const (
	// Lanes is the number of accumulators in a lane sum.
	Lanes = 16
	// BlockK is the number of terms in one chain of a matrix product.
	BlockK = 256
	// BlockSum is the number of elements in one block of Sum and SquareSum.
	BlockSum = 4096
	// ClassF32 is the numerics class that this arithmetic defines, but for its last part.
	ClassF32 = "f32"
	// ClassBF16 is the class of products of bfloat16; parameters, gradients and sums stay float32.
	ClassBF16 = "bf16"
	// ClassBF16AMX is another class of such products, by what multiplies fastest on processors with AMX.
	ClassBF16AMX = "bf16-amx"
	// BlockMMA is the number of terms in one chain of a product of bfloat16 on a GPU.
	BlockMMA = 4096
	// ClassBF16MMA begins the names of the classes of products of bfloat16 on GPUs; the compute capability follows, as "sm_90".
	ClassBF16MMA = "bf16-mma-"
	// ClassBF16WGMMA begins the name of the class of products by another instruction of such GPUs, in the same way.
	ClassBF16WGMMA = "bf16-wgmma-"
	// ClassBF16CuBLASLt begins the names of the classes of products by NVIDIA's library; the compute capability, the library's version and
	// the number of the GPU's multiprocessors follow, as "sm_90-120903-132".
	ClassBF16CuBLASLt = "bf16-cublaslt-"
	// MaxRoundedHead is the size of the largest heads whose attention multiplies bfloat16 in such classes.
	MaxRoundedHead = 128
)

// RoundsFactors says whether devices of a class round the factors of linear layers to bfloat16.
func RoundsFactors(class string) bool {
	return class == ClassBF16 || class == ClassBF16AMX || byMatrixUnit(class)
}

// RoundsAttention says whether devices of a class also round the factors of attention's products, probabilities among them, for heads
// of hs values.
func RoundsAttention(class string, hs int) bool {
	return byMatrixUnit(class) && hs <= MaxRoundedHead
}

// byMatrixUnit says whether a class is one of those of GPUs' matrix units.
func byMatrixUnit(class string) bool {
	return strings.HasPrefix(class, ClassBF16MMA) || strings.HasPrefix(class, ClassBF16WGMMA) || strings.HasPrefix(class, ClassBF16CuBLASLt)
}

const (
	layerNormEps = float32(1e-5)

	expLow   = float32(-104) // exp is 0 from here down
	expHigh  = float32(89)   // exp is +Inf from here up
	expMagic = float32(0x1.8p23)
	log2e    = float32(0x1.715476p+0)
	ln2Hi    = float32(0x1.63p-1) // 9 bits: n·ln2Hi is exact
	ln2Lo    = float32(-0x1.bd0106p-13)

	geluLimit  = float32(32)
	geluLinear = float32(1.5957691216057308)  // 2√(2/π)
	geluCubic  = float32(0.07135481282605335) // 2√(2/π)·0.044715
	geluCubic3 = float32(0.21406443847816005) // three times that
)

// expCoef has c6 … c0 of exp on ±ln2/2: 1 + r + r²·(a Chebyshev fit of degree 4, relative error 8e-9 in all).
var expCoef = [7]float32{
	0x1.6d117cp-10, 0x1.120be2p-7, 0x1.555518p-5, 0x1.5554dcp-3, 0.5, 1, 1,
}

// logCoef has l8 … l0 of (log(1+f) - f + f²/2)/f³ on √½-1 … √2-1, a Chebyshev fit.
var logCoef = [9]float32{
	0x1.1d8ea6p-4, -0x1.d635bcp-4, 0x1.dea282p-4, -0x1.fcf4c6p-4, 0x1.23d21ap-3,
	-0x1.555b4ap-3, 0x1.999d5ap-3, -0x1.fffffcp-3, 0x1.555554p-2,
}

// bitsSqrtHalf is the bit pattern of √½.
const bitsSqrtHalf = 0x3f3504f3

// AttentionScale is 1/√hs.
func AttentionScale(hs int) float32 {
	return 1 / float32(math.Sqrt(float64(hs)))
}

// AdamWFactors are the scalars of one AdamW update, the same on every device.
type AdamWFactors struct {
	LR, Beta1, Beta2, Eps, Decay float32
	Rest1, Rest2                 float32 // 1-Beta1, 1-Beta2
	C1, C2                       float32 // 1/(1-Beta1^Step), 1/(1-Beta2^Step)
	Scale                        float32 // of the gradient
}

// Factors computes in float64 and rounds once. The power is by repeated squaring, low bit of Step first,
// so that every device and compiler gets the same bits.
func (a AdamW) Factors(gscale float32) AdamWFactors {
	return AdamWFactors{
		LR: a.LR, Beta1: a.Beta1, Beta2: a.Beta2, Eps: a.Eps, Decay: a.Decay,
		Rest1: float32(1 - float64(a.Beta1)),
		Rest2: float32(1 - float64(a.Beta2)),
		C1:    float32(1 / (1 - power(float64(a.Beta1), a.Step))),
		C2:    float32(1 / (1 - power(float64(a.Beta2), a.Step))),
		Scale: gscale,
	}
}

func power(x float64, n int64) float64 {
	r := 1.0
	for ; n > 0; n >>= 1 {
		if n&1 == 1 {
			r = float64(r * x)
		}
		x = float64(x * x)
	}
	return r
}
