package kernels

import (
	"fmt"
	"unsafe"
)

// Combine is the instruction of Reduction.Order that replaces the two topmost values by one.
const Combine = -1

const (
	// MaxSources is the most sources of one Reduction.
	MaxSources = 1 << 15
	// MaxDepth is the most values that a Reduction's Order may have waiting at once. A balanced tree over all sources
	// that int16 can number needs 17.
	MaxDepth = 32
	// StreamBytes is from how many bytes on, of sources and destinations together, results are stored past the caches.
	StreamBytes = 16 << 20
)

// Reduction combines equally long arrays element by element in a fixed order. The bits of the result are a function of the
// sources' bits and of these fields alone: every instruction set and plain Go give the same.
//
//   - Floats: one IEEE operation for each combination, rounded to nearest even, subnormal numbers kept. bfloat16 and float16
//     are widened to float32, and every combined value is rounded back. Where a result is a NaN it is the quiet NaN with the
//     sign clear and no payload (0x7fc00000 for Float32), also where a single source is copied. Min and Max are NaN when
//     either side is; -0 is less than +0.
//   - Integers wrap.
//
// A Reduction is not changed by Run and may be used by many goroutines at once.
type Reduction struct {
	Type DType
	Op   RedOp

	// Order is the expression in post-order: k >= 0 pushes source k, Combine replaces the two topmost values by left op right.
	// One value is left at the end. At most MaxDepth values wait at once. A source may be pushed more than once or never.
	// Nil is ((s0 op s1) op s2) op ….
	Order []int16

	// Divisor divides every final value when it is above 1: floats by one division in the arithmetic of the type,
	// integers truncate toward zero.
	Divisor int

	// Round is for Float32 alone: every source as read, every combined value and the quotient are rounded to a bfloat16
	// (nearest even).
	Round bool

	// Footprint is how many bytes the whole work touches of which a Run is a part: from StreamBytes on, results are
	// stored past the caches where no source is written. It changes no bit. Zero means what Run itself touches.
	Footprint int
}

// Run writes the result into every dst, on the caller's thread and without allocating. All arrays have one length, a
// multiple of the type's size, and may begin at any multiple of it. A dst may be one of the srcs; other overlaps are
// not allowed. It panics when the arguments do not fit together.
func (r *Reduction) Run(dsts, srcs [][]byte) {
	bytes := r.check(dsts, srcs)
	if bytes == 0 {
		return
	}
	touched := max(r.Footprint, bytes*(len(dsts)+len(srcs)))
	best().reduce(r, dsts, srcs, touched >= StreamBytes)
}

// Reduce2 is dst = a op b: the Reduction of two sources into one.
func Reduce2(t DType, op RedOp, dst, a, b []byte) {
	if !t.Valid() || !op.Valid() {
		panic(fmt.Sprintf("kernels: reduction %v of %v", op, t))
	}
	if len(a) != len(dst) || len(b) != len(dst) || len(dst)%t.Size() != 0 {
		panic(fmt.Sprintf("kernels: reduction of %d and %d bytes of %v into %d", len(a), len(b), t, len(dst)))
	}
	if len(dst) > 0 {
		best().reduce2(t, op, dst, a, b, 3*len(dst) >= StreamBytes)
	}
}

// check panics unless r and the arrays fit together, and gives the arrays' length.
func (r *Reduction) check(dsts, srcs [][]byte) int {
	if !r.Type.Valid() || !r.Op.Valid() || r.Divisor < 0 || r.Round && r.Type != Float32 {
		panic(fmt.Sprintf("kernels: reduction %v of %v with divisor %d, round %t", r.Op, r.Type, r.Divisor, r.Round))
	}
	if len(dsts) == 0 || len(srcs) == 0 || len(srcs) > MaxSources {
		panic(fmt.Sprintf("kernels: reduction of %d sources into %d", len(srcs), len(dsts)))
	}
	bytes := len(dsts[0])
	for _, arrays := range [...][][]byte{dsts, srcs} {
		for i, b := range arrays {
			if len(b) != bytes || bytes%r.Type.Size() != 0 {
				panic(fmt.Sprintf("kernels: array %d of a reduction of %v has %d bytes, the first has %d", i, r.Type, len(b), bytes))
			}
		}
	}
	if r.Order != nil {
		r.depth(len(srcs))
	}
	return bytes
}

// depth is the most values that wait at once in Order; it panics when Order is no expression over sources sources.
func (r *Reduction) depth(sources int) int {
	depth, most := 0, 0
	for i, k := range r.Order {
		switch {
		case k >= 0 && int(k) < sources:
			depth++
		case k == Combine && depth >= 2:
			depth--
		default:
			panic(fmt.Sprintf("kernels: instruction %d of a reduction of %d sources is %d with %d values waiting", i, sources, k, depth))
		}
		most = max(most, depth)
	}
	if depth != 1 || most > MaxDepth {
		panic(fmt.Sprintf("kernels: a reduction's order leaves %d values and has %d of at most %d waiting", depth, most, MaxDepth))
	}
	return most
}

// elementsOf is b as elements of its type.
func elementsOf[T any](b []byte) []T {
	var t T
	return unsafe.Slice((*T)(unsafe.Pointer(unsafe.SliceData(b))), len(b)/int(unsafe.Sizeof(t)))
}
