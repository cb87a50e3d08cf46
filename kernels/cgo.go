//go:build cgo

package kernels

// #cgo CFLAGS: -std=c11
// #cgo LDFLAGS: -lm
// #include <stdlib.h>
// #include "cgo.h"
// #cgo noescape farandole_add
// #cgo nocallback farandole_add
// #cgo noescape farandole_scale
// #cgo nocallback farandole_scale
// #cgo noescape farandole_gelu
// #cgo nocallback farandole_gelu
// #cgo noescape farandole_gelu_backward
// #cgo nocallback farandole_gelu_backward
// #cgo noescape farandole_relu
// #cgo nocallback farandole_relu
// #cgo noescape farandole_relu_backward
// #cgo nocallback farandole_relu_backward
// #cgo noescape farandole_adamw
// #cgo nocallback farandole_adamw
// #cgo noescape farandole_matmul_pack
// #cgo nocallback farandole_matmul_pack
// #cgo noescape farandole_matmul
// #cgo nocallback farandole_matmul
// #cgo noescape farandole_column_sums
// #cgo nocallback farandole_column_sums
// #cgo noescape farandole_embed
// #cgo nocallback farandole_embed
// #cgo noescape farandole_embed_backward
// #cgo nocallback farandole_embed_backward
// #cgo noescape farandole_layernorm
// #cgo nocallback farandole_layernorm
// #cgo noescape farandole_layernorm_rows
// #cgo nocallback farandole_layernorm_rows
// #cgo noescape farandole_layernorm_columns
// #cgo nocallback farandole_layernorm_columns
// #cgo noescape farandole_attention
// #cgo nocallback farandole_attention
// #cgo noescape farandole_attention_backward
// #cgo nocallback farandole_attention_backward
// #cgo noescape farandole_cross_entropy
// #cgo nocallback farandole_cross_entropy
// #cgo noescape farandole_block_sums
// #cgo nocallback farandole_block_sums
// #cgo noescape farandole_reduce
// #cgo nocallback farandole_reduce
// #cgo noescape farandole_reduce2
// #cgo nocallback farandole_reduce2
// #cgo noescape farandole_encode_bf16
// #cgo nocallback farandole_encode_bf16
// #cgo noescape farandole_decode_bf16
// #cgo nocallback farandole_decode_bf16
// #cgo noescape farandole_encode_int8
// #cgo nocallback farandole_encode_int8
// #cgo noescape farandole_decode_int8
// #cgo nocallback farandole_decode_int8
// #cgo noescape farandole_residual
// #cgo nocallback farandole_residual
// #cgo noescape farandole_fma_loop
// #cgo nocallback farandole_fma_loop
// #cgo noescape farandole_dot_loop
// #cgo nocallback farandole_dot_loop
// #cgo noescape farandole_first_nonfinite
// #cgo nocallback farandole_first_nonfinite
// #cgo noescape farandole_copy_past
// #cgo nocallback farandole_copy_past
import "C"

import (
	"sync"
	"unsafe"
)

// isas are the instruction sets that C code may have, best first.
var isas = []string{"avx512", "avx2", "neon", "portable"}

// The kinds of matrix product.
const (
	productF32   = C.PRODUCT_F32
	productPairs = C.PRODUCT_PAIRS // of bfloat16, on any machine
	productDot   = C.PRODUCT_DOT   // the same by an instruction

	productGroups = C.PRODUCT_GROUPS // of class bf16-amx, on any machine
	productAMX    = C.PRODUCT_AMX    // the same by AMX
)

// setFirstCache is for tests.
func setFirstCache(bytes int) (before int) {
	before = int(C.farandole_first_cache)
	C.farandole_first_cache = C.long(bytes)
	return before
}

// HasAMX says whether this processor and system have what ProductsAMX is named for, and the build what uses it. Elsewhere the same bits take longer.
func HasAMX() bool { return findNative("avx512", ClassF32) != nil && hasAMX() }

// hasAMX asks the machine once, because a virtual machine answers slowly.
var hasAMX = sync.OnceValue(func() bool { return C.farandole_has_amx() != 0 })

// native is an engine of C code for one instruction set.
type native struct {
	ops     *C.farandole_ops
	class   string
	product int // the kind of matrix product

	mu   sync.Mutex  // guards what follows
	free [][]float32 // packing buffers, one per part that ran at the same time
	mem  pages
}

// findNative gives the C code for an instruction set and class, or nil when this machine has not got it.
func findNative(isa, class string) engine {
	name := C.CString(isa)
	defer C.free(unsafe.Pointer(name))
	ops := C.farandole_find(name)
	if ops == nil {
		return nil
	}
	e := &native{ops: ops, product: productF32, class: class}
	switch class {
	case ClassBF16:
		e.product = productPairs
		if C.farandole_has_dot(ops) != 0 {
			e.product = productDot
		}
	case ClassBF16AMX:
		e.product = productGroups
		if has := hasAMX(); has && e.isa() == "avx512" {
			e.product = productAMX
		}
	}
	return e
}

func (e *native) isa() string { return C.GoString(e.ops.name) }

// borrow gives a packing buffer of at least n floats; giveBack takes it again.
func (e *native) borrow(n int) []float32 {
	e.mu.Lock()
	var w []float32
	if last := len(e.free) - 1; last >= 0 {
		w, e.free = e.free[last], e.free[:last]
	}
	if len(w) < n {
		w = e.mem.floats(n)
	}
	e.mu.Unlock()
	return w
}

func (e *native) giveBack(w []float32) {
	e.mu.Lock()
	e.free = append(e.free, w)
	e.mu.Unlock()
}

// ptr is the address that C reads; C touches nothing of an empty slice.
func ptr(x []float32) *C.float { return (*C.float)(unsafe.SliceData(x)) }

func ids(x []int32) *C.int32_t { return (*C.int32_t)(unsafe.SliceData(x)) }

func (e *native) add(dst, a, b []float32) {
	C.farandole_add(e.ops, ptr(dst), ptr(a), ptr(b), C.long(len(dst)))
}

func (e *native) scale(x []float32, s float32) {
	C.farandole_scale(e.ops, ptr(x), C.float(s), C.long(len(x)))
}

func (e *native) gelu(out, x []float32) {
	C.farandole_gelu(e.ops, ptr(out), ptr(x), C.long(len(x)))
}

func (e *native) geluBackward(dx, out, dout, x []float32) {
	C.farandole_gelu_backward(e.ops, ptr(dx), ptr(out), ptr(dout), ptr(x), C.long(len(x)))
}

func (e *native) relu(out, x []float32) {
	C.farandole_relu(e.ops, ptr(out), ptr(x), C.long(len(x)))
}

func (e *native) reluBackward(dx, dout, x []float32) {
	C.farandole_relu_backward(e.ops, ptr(dx), ptr(dout), ptr(x), C.long(len(x)))
}

func (e *native) adamW(p, g, m, v []float32, f *AdamWFactors) {
	C.farandole_adamw(e.ops, ptr(p), ptr(g), ptr(m), ptr(v), C.long(len(p)), C.adamw_factors{
		lr: C.float(f.LR), beta1: C.float(f.Beta1), beta2: C.float(f.Beta2), eps: C.float(f.Eps),
		decay: C.float(f.Decay), rest1: C.float(f.Rest1), rest2: C.float(f.Rest2),
		c1: C.float(f.C1), c2: C.float(f.C2), gscale: C.float(f.Scale),
	})
}

// matmul is not how this engine computes products; see packer.
func (e *native) matmul(t *matmulTask, i0, i1, j0, j1 int) {
	reference{e.class}.matmul(t, i0, i1, j0, j1)
}

func (e *native) tiling() (rows, columns, work int) {
	work = 1 << 16
	if e.product == productAMX {
		work = 1 << 20
	}
	return int(C.farandole_tile_rows(e.ops, C.int(e.product))), int(e.ops.panel_columns), work
}

func (e *native) matmulArgs(t *matmulTask) C.matmul_args {
	var accumulate C.int
	if t.accumulate {
		accumulate = 1
	}
	return C.matmul_args{
		a: ptr(t.a), b: ptr(t.b), bias: ptr(t.bias), c: ptr(t.c), m: C.long(t.m), n: C.long(t.n), k: C.long(t.k),
		ai: C.long(t.ai), ak: C.long(t.ak), bk: C.long(t.bk), bj: C.long(t.bj), accumulate: accumulate,
		product: C.int(e.product),
	}
}

func (e *native) inPlace(t *matmulTask) bool {
	return C.farandole_matmul_in_place(e.ops, e.matmulArgs(t)) != 0
}

func (e *native) packRows(t *matmulTask, dst []float32, k0, k1, r0, r1 int) {
	C.farandole_matmul_pack(e.ops, e.matmulArgs(t), ptr(dst), 1, C.long(k0), C.long(k1), C.long(r0), C.long(r1))
}

func (e *native) packColumns(t *matmulTask, dst []float32, k0, k1, p0, p1 int) {
	C.farandole_matmul_pack(e.ops, e.matmulArgs(t), ptr(dst), 0, C.long(k0), C.long(k1), C.long(p0), C.long(p1))
}

func (e *native) matmulRows(t *matmulTask, packed []float32, k0, k1, r0, r1, soon int) {
	rows, _, _ := e.tiling()
	e.compute(t, packed, 1, (r1-r0)*rows, k0, k1, r0, r1, soon)
}

func (e *native) matmulColumns(t *matmulTask, packed []float32, k0, k1, p0, p1, soon int) {
	_, columns, _ := e.tiling()
	e.compute(t, packed, 0, (p1-p0)*columns, k0, k1, p0, p1, soon)
}

// compute borrows memory for one block of the side that is not shared, length wide.
func (e *native) compute(t *matmulTask, packed []float32, rows C.int, length, k0, k1, u0, u1, soon int) {
	floats := length * min(BlockK, k1-k0)
	if e.product == productAMX {
		floats = (u1 - u0) * C.AMX_GROUP * ((min(k1-k0, C.AMX_BLOCK) + C.AMX_TERMS - 1) / C.AMX_TERMS)
	}
	work := e.borrow(floats)
	defer e.giveBack(work)
	C.farandole_matmul(e.ops, e.matmulArgs(t), ptr(packed), ptr(work), rows, C.long(k0), C.long(k1), C.long(u0), C.long(u1), C.long(soon))
}

func (e *native) columnSums(t *columnSumsTask, j0, j1 int) {
	C.farandole_column_sums(e.ops, ptr(t.dst), ptr(t.x), C.long(t.rows), C.long(t.n), C.long(j0), C.long(j1))
}

func (e *native) embed(t *embedTask, i0, i1 int) {
	C.farandole_embed(e.ops, ptr(t.x), ptr(t.wte), ptr(t.wpe), ids(t.tokens), C.long(t.t), C.long(t.c), C.long(i0), C.long(i1))
}

func (e *native) embedBackward(t *embedTask, j0, j1 int) {
	C.farandole_embed_backward(e.ops, ptr(t.wte), ptr(t.wpe), ptr(t.x), ids(t.tokens), C.long(len(t.tokens)),
		C.long(t.t), C.long(t.c), C.long(j0), C.long(j1))
}

func (e *native) layerNorm(t *layerNormTask, i0, i1 int) {
	C.farandole_layernorm(e.ops, ptr(t.out), ptr(t.mean), ptr(t.rstd), ptr(t.sum), ptr(t.x), ptr(t.add), ptr(t.gamma), ptr(t.beta),
		C.long(t.c), C.long(i0), C.long(i1))
}

func (e *native) layerNormRows(t *layerNormTask, i0, i1 int) {
	C.farandole_layernorm_rows(e.ops, ptr(t.dx), ptr(t.dout), ptr(t.x), ptr(t.gamma), ptr(t.mean), ptr(t.rstd),
		C.long(t.c), C.long(i0), C.long(i1))
}

func (e *native) layerNormColumns(t *layerNormTask, j0, j1 int) {
	C.farandole_layernorm_columns(e.ops, ptr(t.dgamma), ptr(t.dbeta), ptr(t.dout), ptr(t.x), ptr(t.mean), ptr(t.rstd),
		C.long(t.rows), C.long(t.c), C.long(j0), C.long(j1))
}

func (t *attentionTask) args() C.attention_args {
	return C.attention_args{
		out: ptr(t.out), qkv: ptr(t.qkv), dqkv: ptr(t.dqkv), dout: ptr(t.dout),
		t: C.long(t.t), heads: C.long(t.heads), hs: C.long(t.hs), scale: C.float(t.scale),
	}
}

func (e *native) attention(t *attentionTask, h0, h1 int) {
	work := e.borrow(int(C.farandole_attention_work(e.ops, C.long(t.t), C.long(t.hs))))
	defer e.giveBack(work)
	C.farandole_attention(e.ops, ptr(work), t.args(), C.long(h0), C.long(h1))
}

func (e *native) attentionBackward(t *attentionTask, h0, h1 int) {
	work := e.borrow(int(C.farandole_attention_work(e.ops, C.long(t.t), C.long(t.hs))))
	defer e.giveBack(work)
	C.farandole_attention_backward(e.ops, ptr(work), t.args(), C.long(h0), C.long(h1))
}

func (e *native) crossEntropy(t *crossEntropyTask, i0, i1 int) {
	C.farandole_cross_entropy(e.ops, ptr(t.losses), ptr(t.logits), ids(t.targets), C.long(t.v), C.float(t.scale),
		C.long(i0), C.long(i1))
}

func (e *native) blockSums(dst, x []float32, square bool, b0, b1 int) {
	var sq C.int
	if square {
		sq = 1
	}
	C.farandole_block_sums(e.ops, ptr(dst), ptr(x), C.long(len(x)), sq, C.long(b0), C.long(b1))
}

func (e *native) firstNonFinite(x []float32) int {
	return int(C.farandole_first_nonfinite(e.ops, ptr(x), C.long(len(x))))
}

func (e *native) copyPast(dst, src []byte) {
	C.farandole_copy_past(e.ops, address(dst), address(src), C.long(len(dst)))
}

// fmaLoop does about the given number of floating-point operations of a product in registers and returns how many it did.
func (e *native) fmaLoop(flops int64) int64 {
	if e.product != productF32 {
		each := int64(C.farandole_dot_flops(e.ops, C.int(e.product)))
		rounds := flops/each + 1
		C.farandole_dot_loop(e.ops, C.int(e.product), C.long(rounds), 0.5)
		return rounds * each
	}
	rounds := flops/int64(e.ops.fma_flops) + 1
	C.farandole_fma_loop(e.ops, C.long(rounds), 0.5)
	return rounds * int64(e.ops.fma_flops)
}
