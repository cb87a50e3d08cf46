package kernels

import "math"

func (reference) reduce2(t DType, op RedOp, dst, a, b []byte, stream bool) {
	dsts, srcs := [1][]byte{dst}, [2][]byte{a, b}
	r := Reduction{Type: t, Op: op}
	reference{}.reduce(&r, dsts[:], srcs[:], stream)
}

func (reference) reduce(r *Reduction, dsts, srcs [][]byte, _ bool) {
	switch r.Type {
	case Float32:
		if r.Round {
			reduceElements[roundedArith, float32](r, dsts, srcs)
			return
		}
		reduceElements[float32Arith, float32](r, dsts, srcs)
	case Float64:
		reduceElements[float64Arith, float64](r, dsts, srcs)
	case BFloat16:
		reduceElements[bfloat16Arith, uint16](r, dsts, srcs)
	case Float16:
		reduceElements[float16Arith, uint16](r, dsts, srcs)
	case Int32:
		reduceElements[integerArith[int32], int32](r, dsts, srcs)
	case Int64:
		reduceElements[integerArith[int64], int64](r, dsts, srcs)
	case Uint8:
		reduceElements[integerArith[uint8], uint8](r, dsts, srcs)
	}
}

// arith is a type's arithmetic on elements as they lie in memory.
type arith[T any] interface {
	read(x T) T // what becomes of a source
	combine(op RedOp, a, b T) T
	final(x T, divisor int) T // divisor 0 or 1: no division
}

// reduceElements evaluates the expression for one element after the other.
func reduceElements[A arith[T], T any](r *Reduction, dsts, srcs [][]byte) {
	var by A
	var stack [MaxDepth]T
	for i := range elementsOf[T](dsts[0]) {
		top := by.read(elementsOf[T](srcs[0])[i])
		if r.Order == nil {
			for _, s := range srcs[1:] {
				top = by.combine(r.Op, top, by.read(elementsOf[T](s)[i]))
			}
		} else {
			n := 0
			for _, k := range r.Order {
				if k == Combine {
					n--
					stack[n-1] = by.combine(r.Op, stack[n-1], stack[n])
					continue
				}
				stack[n] = by.read(elementsOf[T](srcs[k])[i])
				n++
			}
			top = stack[0]
		}
		top = by.final(top, r.Divisor)
		for _, d := range dsts {
			elementsOf[T](d)[i] = top
		}
	}
}

// combineFloats does the arithmetic of the floating-point types; which NaN comes out is not defined here.
func combineFloats[T float32 | float64](op RedOp, a, b T) T {
	switch op {
	case Prod:
		return a * b
	case Min, Max:
		if a != a || b != b {
			return a + b
		}
		left := a < b || a == b && math.Signbit(float64(a))
		if left == (op == Min) {
			return a
		}
		return b
	}
	return a + b
}

type float32Arith struct{}

func (float32Arith) read(x float32) float32                 { return x }
func (float32Arith) combine(op RedOp, a, b float32) float32 { return combineFloats(op, a, b) }
func (float32Arith) final(x float32, divisor int) float32 {
	if divisor > 1 {
		x /= float32(divisor)
	}
	if x != x {
		return math.Float32frombits(nan32)
	}
	return x
}

// roundedArith is float32 with every value rounded to a bfloat16.
type roundedArith struct{}

func (roundedArith) read(x float32) float32 { return bf16ToF32(bf16FromF32(x)) }
func (by roundedArith) combine(op RedOp, a, b float32) float32 {
	return by.read(combineFloats(op, a, b))
}
func (by roundedArith) final(x float32, divisor int) float32 {
	return by.read(float32Arith{}.final(x, divisor))
}

// addRounded is Device.AddRounded on every engine: gradients that a host adds in this way are reduced by Reduction.
func addRounded(out, a, b []float32) {
	round := func(x float32) float32 { return bf16ToF32(bf16FromF32(x)) }
	for i, x := range a {
		x = round(x)
		if b != nil {
			x = round(x + round(b[i]))
		}
		out[i] = x
	}
}

type float64Arith struct{}

func (float64Arith) read(x float64) float64                 { return x }
func (float64Arith) combine(op RedOp, a, b float64) float64 { return combineFloats(op, a, b) }
func (float64Arith) final(x float64, divisor int) float64 {
	if divisor > 1 {
		x /= float64(divisor)
	}
	if x != x {
		return math.Float64frombits(nan64)
	}
	return x
}

type bfloat16Arith struct{}

func (bfloat16Arith) read(x uint16) uint16 { return x }
func (bfloat16Arith) combine(op RedOp, a, b uint16) uint16 {
	return bf16FromF32(combineFloats(op, bf16ToF32(a), bf16ToF32(b)))
}
func (bfloat16Arith) final(x uint16, divisor int) uint16 {
	return bf16FromF32(float32Arith{}.final(bf16ToF32(x), divisor))
}

type float16Arith struct{}

func (float16Arith) read(x uint16) uint16 { return x }
func (float16Arith) combine(op RedOp, a, b uint16) uint16 {
	return f16FromF32(combineFloats(op, f16ToF32(a), f16ToF32(b)))
}
func (float16Arith) final(x uint16, divisor int) uint16 {
	return f16FromF32(float32Arith{}.final(f16ToF32(x), divisor))
}

type integerArith[T int32 | int64 | uint8] struct{}

func (integerArith[T]) read(x T) T { return x }
func (integerArith[T]) combine(op RedOp, a, b T) T {
	switch op {
	case Prod:
		return a * b
	case Min:
		return min(a, b)
	case Max:
		return max(a, b)
	}
	return a + b
}
func (integerArith[T]) final(x T, divisor int) T {
	if divisor > 1 {
		return T(int64(x) / int64(divisor))
	}
	return x
}

func (reference) encodeBF16(dst []byte, src []float32) {
	out := elementsOf[uint16](dst)
	for i, x := range src {
		out[i] = bf16FromF32(x)
	}
}

func (reference) decodeBF16(dst []float32, src []byte) {
	in := elementsOf[uint16](src)
	for i := range dst {
		dst[i] = bf16ToF32(in[i])
	}
}
