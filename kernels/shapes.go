package kernels

import (
	"fmt"
	"math"
	"slices"
)

// Owner is what Shapes asks of a Device.
type Owner interface {
	Name() string
	// Owns says whether b is memory of this device.
	Owns(b Buffer) bool
	// IDs are the values of x; ok is false when x is not this device's.
	IDs(x Ints) (ids []int32, ok bool)
}

// Shapes checks what the operations of a Device are called with, one method for each kind of operation. A mistake is a
// programmer's error: it panics with a sentence that names operation and argument.
type Shapes struct{ Owner Owner }

// CheckSlice panics unless [off, off+n) lies in a buffer of length values.
func CheckSlice(off, n, length int) {
	if off < 0 || n < 0 || off > length-n {
		panic(fmt.Sprintf("kernels: Slice(%d, %d) of a buffer of %d values", off, n, length))
	}
}

// CheckAlloc is an error unless a buffer may have n values.
func CheckAlloc(n int) error {
	if n < 0 || n > math.MaxInt/8 {
		return fmt.Errorf("kernels: cannot allocate a buffer of %d values", n)
	}
	return nil
}

// maxWork bounds the product of an operation's dimensions, so that no size computed from them wraps around.
const maxWork = 1 << 60

// checkDims panics unless every dimension is at least 1 and their product at most maxWork.
func checkDims(op string, dims ...int) {
	work := 1
	for _, n := range dims {
		if n < 1 || n > maxWork/work {
			// The clone keeps dims itself off the heap.
			panic(fmt.Sprintf("kernels: %s: dimensions %v: each must be at least 1, and their product at most 2⁶⁰", op, slices.Clone(dims)))
		}
		work *= n
	}
}

// checkWindow panics unless g and the number of filters make sense.
func checkWindow(op string, g Window, filters int) {
	if g.Stride < 1 || g.Pad < 0 || g.Pad >= min(g.Rows, g.Columns) {
		panic(fmt.Sprintf("kernels: %s: stride %d and pad %d for a window of %d×%d: a stride is at least 1, and a pad less than the window",
			op, g.Stride, g.Pad, g.Rows, g.Columns))
	}
	checkDims(op, g.Images, g.Height, g.Width, g.Channels, g.Rows, g.Columns, filters)
	if g.Rows-2*g.Pad > g.Height || g.Columns-2*g.Pad > g.Width {
		panic(fmt.Sprintf("kernels: %s: a window of %d×%d does not fit into %d×%d with pad %d", op, g.Rows, g.Columns, g.Height, g.Width, g.Pad))
	}
	height, width := g.Out()
	checkDims(op, g.Images, height, width, g.Rows, g.Columns, g.Channels, filters)
}

// own panics unless b is the device's, and gives its length.
func (s Shapes) own(op, arg string, b Buffer) int {
	if b == nil || !s.Owner.Owns(b) {
		panic(fmt.Sprintf("kernels: %s: %s is no buffer of device %q", op, arg, s.Owner.Name()))
	}
	return b.Len()
}

// has panics unless b is the device's and has n values.
func (s Shapes) has(op, arg string, b Buffer, n int) {
	if length := s.own(op, arg, b); length != n {
		panic(fmt.Sprintf("kernels: %s: %s has %d values, its shape needs %d", op, arg, length, n))
	}
}

// may is has for an argument that may be nil.
func (s Shapes) may(op, arg string, b Buffer, n int) {
	if b != nil {
		s.has(op, arg, b, n)
	}
}

// ids panics unless x is the device's, has n values, and all are in [low, high).
func (s Shapes) ids(op, arg string, x Ints, n int, low int32, high int) {
	for i, id := range s.ints(op, arg, x, n) {
		if id < low || int(id) >= high {
			panic(fmt.Sprintf("kernels: %s: %s[%d] is %d, outside [%d, %d)", op, arg, i, id, low, high))
		}
	}
}

func (s Shapes) ints(op, arg string, x Ints, n int) []int32 {
	ids, ok := s.Owner.IDs(x)
	if !ok {
		panic(fmt.Sprintf("kernels: %s: %s is no buffer of device %q", op, arg, s.Owner.Name()))
	}
	if len(ids) != n {
		panic(fmt.Sprintf("kernels: %s: %s has %d values, its shape needs %d", op, arg, len(ids), n))
	}
	return ids
}

// CheckOwned is for an operation on one buffer of any length.
func (s Shapes) CheckOwned(op, arg string, b Buffer) { s.own(op, arg, b) }

// CheckLen is for a copy of n values from or to the host; CheckIntsLen is the same for Ints.
func (s Shapes) CheckLen(op, arg string, b Buffer, n int)   { s.has(op, arg, b, n) }
func (s Shapes) CheckIntsLen(op, arg string, x Ints, n int) { s.ints(op, arg, x, n) }

// CheckCopy and CheckAdd are for operations element by element.
func (s Shapes) CheckCopy(dst, src Buffer) {
	s.has("Copy", "src", src, s.own("Copy", "dst", dst))
}

func (s Shapes) CheckAdd(dst, a, b Buffer) {
	const op = "Add"
	n := s.own(op, "dst", dst)
	s.has(op, "a", a, n)
	s.has(op, "b", b, n)
}

func (s Shapes) CheckAddRounded(dst, a, b Buffer) {
	const op = "AddRounded"
	n := s.own(op, "dst", dst)
	s.has(op, "a", a, n)
	if b != nil {
		s.has(op, "b", b, n)
	}
}

// CheckActivation is for out from x, or, backward, for dx from dout and x with perhaps a second output.
func (s Shapes) CheckActivation(op string, out, x Buffer) { s.has(op, "x", x, s.own(op, "out", out)) }

func (s Shapes) CheckActivationBackward(op string, dx, out, dout, x Buffer) {
	n := s.own(op, "dx", dx)
	s.has(op, "x", x, n)
	s.has(op, "dout", dout, n)
	s.may(op, "out", out, n)
}

func (s Shapes) CheckAdamW(p, g, m, v Buffer, a AdamW) {
	if a.Step < 1 {
		panic(fmt.Sprintf("kernels: AdamW: step is %d, the first is 1", a.Step))
	}
	n := s.own("AdamW", "p", p)
	s.has("AdamW", "g", g, n)
	s.has("AdamW", "m", m, n)
	s.has("AdamW", "v", v, n)
}

func (s Shapes) CheckLinear(out, x, w, bias Buffer, m, n, k int) {
	const op = "Linear"
	checkDims(op, m, n, k)
	s.has(op, "out", out, m*n)
	s.has(op, "x", x, m*k)
	s.has(op, "w", w, n*k)
	s.may(op, "bias", bias, n)
}

func (s Shapes) CheckLinearBackwardInput(dx, dout, w Buffer, m, n, k int) {
	const op = "LinearBackwardInput"
	checkDims(op, m, n, k)
	s.has(op, "dx", dx, m*k)
	s.has(op, "dout", dout, m*n)
	s.has(op, "w", w, n*k)
}

func (s Shapes) CheckLinearBackward(dx, dw, dbias, dout, x, w Buffer, m, n, k int) {
	const op = "LinearBackward"
	checkDims(op, m, n, k)
	s.may(op, "dx", dx, m*k)
	s.has(op, "dw", dw, n*k)
	s.may(op, "dbias", dbias, n)
	s.has(op, "dout", dout, m*n)
	s.has(op, "x", x, m*k)
	s.has(op, "w", w, n*k)
}

// CheckEmbed is for Embed, and for EmbedBackward with gradients in the places of out, wte and wpe.
func (s Shapes) CheckEmbed(op string, out, wte, wpe Buffer, tokens Ints, b, t, c int) {
	checkDims(op, b, t, c)
	s.has(op, "out", out, b*t*c)
	table := s.own(op, "wte", wte)
	if table%c != 0 {
		panic(fmt.Sprintf("kernels: %s: wte has %d values, no multiple of the width %d", op, table, c))
	}
	if wpe != nil {
		if n := s.own(op, "wpe", wpe); n < t*c {
			panic(fmt.Sprintf("kernels: %s: wpe has %d values, %d positions of width %d need %d", op, n, t, c, t*c))
		}
	}
	s.ids(op, "tokens", tokens, b*t, 0, table/c)
}

func (s Shapes) CheckResidualLayerNorm(sum, out, mean, rstd, a, b, gamma, beta Buffer, rows, c int) {
	const op = "ResidualLayerNorm"
	s.CheckLayerNorm(op, out, mean, rstd, a, gamma, beta, rows, c)
	s.has(op, "sum", sum, rows*c)
	s.has(op, "b", b, rows*c)
}

func (s Shapes) CheckLayerNorm(op string, out, mean, rstd, x, gamma, beta Buffer, rows, c int) {
	checkDims(op, rows, c)
	s.has(op, "out", out, rows*c)
	s.has(op, "mean", mean, rows)
	s.has(op, "rstd", rstd, rows)
	s.has(op, "x", x, rows*c)
	s.has(op, "gamma", gamma, c)
	s.has(op, "beta", beta, c)
}

func (s Shapes) CheckLayerNormBackward(dx, dgamma, dbeta, dout, x, gamma, mean, rstd Buffer, rows, c int) {
	const op = "LayerNormBackward"
	checkDims(op, rows, c)
	s.has(op, "dx", dx, rows*c)
	s.has(op, "dgamma", dgamma, c)
	s.has(op, "dbeta", dbeta, c)
	s.has(op, "dout", dout, rows*c)
	s.has(op, "x", x, rows*c)
	s.has(op, "gamma", gamma, c)
	s.has(op, "mean", mean, rows)
	s.has(op, "rstd", rstd, rows)
}

func (s Shapes) CheckConv(out, x, w, bias Buffer, filters int, g Window) {
	const op = "Conv"
	checkWindow(op, g, filters)
	s.has(op, "out", out, g.Positions()*filters)
	s.has(op, "x", x, g.Inputs())
	s.has(op, "w", w, filters*g.Under())
	s.may(op, "bias", bias, filters)
}

func (s Shapes) CheckConvBackward(dx, dw, dbias, dout, x, w Buffer, filters int, g Window) {
	const op = "ConvBackward"
	checkWindow(op, g, filters)
	s.may(op, "dx", dx, g.Inputs())
	s.has(op, "dw", dw, filters*g.Under())
	s.may(op, "dbias", dbias, filters)
	s.has(op, "dout", dout, g.Positions()*filters)
	s.has(op, "x", x, g.Inputs())
	s.has(op, "w", w, filters*g.Under())
}

func (s Shapes) CheckMaxPool(out, x Buffer, g Window) {
	const op = "MaxPool"
	checkWindow(op, g, 1)
	s.has(op, "out", out, g.Positions()*g.Channels)
	s.has(op, "x", x, g.Inputs())
}

func (s Shapes) CheckMaxPoolBackward(dx, dout, x Buffer, g Window) {
	const op = "MaxPoolBackward"
	checkWindow(op, g, 1)
	s.has(op, "dx", dx, g.Inputs())
	s.has(op, "dout", dout, g.Positions()*g.Channels)
	s.has(op, "x", x, g.Inputs())
}

func (s Shapes) CheckAttention(out, qkv Buffer, b, t, heads, hs int) {
	const op = "Attention"
	checkDims(op, b, t, t, heads, hs)
	s.has(op, "out", out, b*t*heads*hs)
	s.has(op, "qkv", qkv, b*t*3*heads*hs)
}

func (s Shapes) CheckAttentionBackward(dqkv, dout, qkv Buffer, b, t, heads, hs int) {
	const op = "AttentionBackward"
	checkDims(op, b, t, t, heads, hs)
	s.has(op, "dqkv", dqkv, b*t*3*heads*hs)
	s.has(op, "dout", dout, b*t*heads*hs)
	s.has(op, "qkv", qkv, b*t*3*heads*hs)
}

func (s Shapes) CheckCrossEntropy(losses, logits Buffer, targets Ints, rows, v int) {
	const op = "CrossEntropy"
	checkDims(op, rows, v)
	s.has(op, "losses", losses, rows)
	s.has(op, "logits", logits, rows*v)
	s.ids(op, "targets", targets, rows, math.MinInt32, v)
}

// CheckReduction is for Sum and SquareSum.
func (s Shapes) CheckReduction(op string, out, x Buffer) {
	s.has(op, "out", out, 1)
	s.own(op, "x", x)
}
