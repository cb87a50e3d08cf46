// Package kernels is the arithmetic of training: buffers on a device and the operations on them.
//
// Every operation gives the same bits on every device of one numerics class, whatever the number of threads
// and whichever instruction set runs it: an output of a matrix product is one chain of fused multiply-adds in
// k order within canonical k blocks, reductions use a fixed lane layout, exp, tanh and log are our own
// polynomials of fused multiply-adds. See docs/algorithms.md.
package kernels

import "fmt"

// Buffer is a range of a device's memory that holds float32 values. Its meaning belongs to the Device that
// allocated it; passing it to another device panics.
type Buffer interface {
	// Len is the number of float32 values.
	Len() int
	// Slice is the part [off, off+n) of the same memory.
	Slice(off, n int) Buffer
}

// Ints is a range of a device's memory that holds int32 values (token ids, labels).
type Ints interface {
	Len() int
	Slice(off, n int) Ints
}

// Device allocates buffers and runs operations on them. Operations are enqueued in order and may run
// asynchronously: results are there after Sync (Download syncs by itself). An asynchronous device's first error, a *DeviceError,
// is what Sync and Download give from then on. Shapes are checked when an operation is
// enqueued; a wrong shape is a programmer's error and panics. A Device is used by one goroutine at a time.
//
// Matrices are row-major. Shapes stand in each operation's comment; "dx +=" accumulates, "dx =" overwrites.
type Device interface {
	// Name is for people: "cpu avx512, 2 threads".
	Name() string
	// Class is the numerics class: devices of one class give equal bits.
	Class() string

	Alloc(n int) (Buffer, error) // zeroed
	AllocInts(n int) (Ints, error)
	// Host is the buffer's memory itself where the host can address it, else nil.
	// The caller Syncs before it reads and keeps off while operations run.
	Host(b Buffer) []float32
	// AllocHost gives zeroed memory of the host that copies to and from this device reach fastest. It outlives the device.
	AllocHost(n int) []float32
	// Upload copies src, which the caller may change when it returns.
	Upload(dst Buffer, src []float32)
	UploadInts(dst Ints, src []int32)
	Download(dst []float32, src Buffer) error
	Sync() error
	Close() error

	Zero(x Buffer)
	Copy(dst, src Buffer)
	// Add: dst = a + b, element by element (a tree node's two children).
	Add(dst, a, b Buffer)
	// AddRounded: dst = a + b with both and the sum rounded to bfloat16 (nearest even, NaN canonical), kept as float32; b may be nil: dst = a,
	// rounded. A node of the tree of --wire bf16.
	AddRounded(dst, a, b Buffer)
	// Scale: x = x·s.
	Scale(x Buffer, s float32)

	// Linear: out[m,n] = x[m,k]·w[n,k]ᵀ (+ bias[n] if not nil).
	Linear(out, x, w, bias Buffer, m, n, k int)
	// LinearBackwardInput: dx[m,k] = dout[m,n]·w[n,k], for a caller that has x only later.
	LinearBackwardInput(dx, dout, w Buffer, m, n, k int)
	// LinearBackward: dx[m,k] = dout[m,n]·w[n,k] (skipped when dx is nil), dw[n,k] += doutᵀ·x, dbias[n] += Σ_m dout
	// (skipped when dbias is nil).
	LinearBackward(dx, dw, dbias, dout, x, w Buffer, m, n, k int)

	// Embed: out[i,:] = wte[tokens[i],:] + wpe[i mod t,:] for i in [0, b·t), rows of c. wpe may be nil.
	Embed(out, wte, wpe Buffer, tokens Ints, b, t, c int)
	// EmbedBackward: dwte[tokens[i],:] += dout[i,:], dwpe[i mod t,:] += dout[i,:], each in order of i.
	EmbedBackward(dwte, dwpe, dout Buffer, tokens Ints, b, t, c int)

	// LayerNorm: out = (x-mean)·rstd·gamma + beta over rows of c, eps 1e-5; mean and rstd [rows] are kept for backward.
	LayerNorm(out, mean, rstd, x, gamma, beta Buffer, rows, c int)
	// ResidualLayerNorm is LayerNorm of x = sum = a + b, without a pass of its own for the addition.
	ResidualLayerNorm(sum, out, mean, rstd, a, b, gamma, beta Buffer, rows, c int)
	// LayerNormBackward: dx += …, dgamma += …, dbeta += ….
	LayerNormBackward(dx, dgamma, dbeta, dout, x, gamma, mean, rstd Buffer, rows, c int)

	// Conv: out[n,oh,ow,filters] = Σ over the window of x[n,h,w,c]·w[filters,rows,columns,c] (+ bias[filters] if not nil);
	// pixels outside are zeros.
	Conv(out, x, w, bias Buffer, filters int, g Window)
	// ConvBackward: dx = … (skipped when dx is nil), dw += …, dbias[filters] += Σ dout (skipped when dbias is nil).
	ConvBackward(dx, dw, dbias, dout, x, w Buffer, filters int, g Window)
	// MaxPool: out[n,oh,ow,c] = the largest x[n,h,w,c] under the window; pixels outside do not count. A NaN counts as the largest.
	MaxPool(out, x Buffer, g Window)
	// MaxPoolBackward: dx = dout at the largest pixel of each window, the first of several, 0 elsewhere.
	MaxPoolBackward(dx, dout, x Buffer, g Window)

	// Attention is causal multi-head attention: qkv[b,t,3,heads,hs] → out[b,t,heads·hs], scale 1/√hs.
	Attention(out, qkv Buffer, b, t, heads, hs int)
	// AttentionBackward: dqkv = … (overwritten). It computes the probabilities again.
	AttentionBackward(dqkv, dout, qkv Buffer, b, t, heads, hs int)

	// GELU (tanh form): out = gelu(x). GELUBackward: dx = dout·gelu'(x), and out = gelu(x) once more if out is not nil.
	GELU(out, x Buffer)
	GELUBackward(dx, out, dout, x Buffer)
	// ReLU: out = max(x, 0). ReLUBackward: dx = dout where x > 0, else 0.
	ReLU(out, x Buffer)
	ReLUBackward(dx, dout, x Buffer)

	// CrossEntropy: losses[i] = -log softmax(logits[i,:v])[targets[i]]; logits[i,:] becomes scale·(softmax - onehot),
	// the gradient. A negative target is ignored: loss 0, gradient 0. With scale 0 logits stay as they are.
	CrossEntropy(losses, logits Buffer, targets Ints, rows, v int, scale float32)
	// Sum: out[0] = Σ x in the fixed lane layout.
	Sum(out, x Buffer)
	// SquareSum: out[0] = Σ x² over fixed blocks, combined in block order (the global norm).
	SquareSum(out, x Buffer)

	// AdamW is one pass over parameter p, gradient g and moments m, v (decoupled weight decay, bias correction
	// by step ≥ 1). The gradient is multiplied by gscale first (averaging and clipping).
	AdamW(p, g, m, v Buffer, gscale float32, a AdamW)
}

// DeviceError says that a device itself failed: its memory is used up, a kernel ended badly, the GPU is lost. The same work may
// succeed on another device.
type DeviceError struct {
	Device string // its Name
	Op     string // the operation that noticed
	Err    error
}

func (e *DeviceError) Error() string { return fmt.Sprintf("%s: %s: %v", e.Device, e.Op, e.Err) }
func (e *DeviceError) Unwrap() error { return e.Err }

// AdamW has the hyper-parameters of one AdamW update (Loshchilov and Hutter 2019, algorithm 2).
type AdamW struct {
	LR, Beta1, Beta2, Eps, Decay float32
	Step                         int64
}
