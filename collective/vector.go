package collective

import (
	"fmt"
	"unsafe"

	"github.com/farandole-ml/farandole/kernels"
)

// DType is the type of a Vector's elements.
type DType = kernels.DType

// The element types.
const (
	Float32  = kernels.Float32
	Float64  = kernels.Float64
	BFloat16 = kernels.BFloat16
	Float16  = kernels.Float16
	Int32    = kernels.Int32
	Int64    = kernels.Int64
	Uint8    = kernels.Uint8
)

// RedOp says how values of several ranks become one.
type RedOp uint8

// The reductions. Avg is Sum, divided by the number of ranks at the end; integers truncate toward zero.
const (
	Sum  = RedOp(kernels.Sum)
	Prod = RedOp(kernels.Prod)
	Min  = RedOp(kernels.Min)
	Max  = RedOp(kernels.Max)
	Avg  = Max + 1
)

func (o RedOp) String() string {
	if o == Avg {
		return "avg"
	}
	return kernels.RedOp(o).String()
}

// kernel is the arithmetic of o over world ranks, and what the result is divided by at the end.
func (o RedOp) kernel(world int) (op kernels.RedOp, divisor int) {
	if o == Avg {
		return kernels.Sum, world
	}
	return kernels.RedOp(o), 0
}

// ParseRedOp is the inverse of String.
func ParseRedOp(s string) (RedOp, error) {
	for o := Sum; o <= Avg; o++ {
		if o.String() == s {
			return o, nil
		}
	}
	return 0, fmt.Errorf("collective: no reduction %q: choose sum, prod, min, max or avg", s)
}

// Vector is a buffer of an operation: memory that the caller owns, and the type of the elements in it.
// Data's length is a multiple of the type's size, and it begins at an address that the type may have.
type Vector struct {
	Type DType
	Data []byte
}

// Len is the number of elements.
func (v Vector) Len() int { return len(v.Data) / v.Type.Size() }

// whole says whether v is a whole number of elements at an address that they may have. Sizes are powers of two.
func (v *Vector) whole() bool {
	bits := uintptr(len(v.Data)) | uintptr(unsafe.Pointer(unsafe.SliceData(v.Data)))
	return bits&uintptr(v.Type.Size()-1) == 0
}

// Of is x as a Vector; it shares x's memory.
func Of[T float32 | float64 | int32 | int64 | uint8](x []T) Vector {
	var zero T
	v := Vector{Data: unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(x))), len(x)*int(unsafe.Sizeof(zero)))}
	switch any(zero).(type) {
	case float32:
		v.Type = Float32
	case float64:
		v.Type = Float64
	case int32:
		v.Type = Int32
	case int64:
		v.Type = Int64
	case uint8:
		v.Type = Uint8
	}
	return v
}

// BF16 is x, the bits of bfloat16 numbers, as a Vector; it shares x's memory.
func BF16(x []uint16) Vector { return Vector{BFloat16, halves(x)} }

// F16 is x, the bits of IEEE half-precision numbers, as a Vector; it shares x's memory.
func F16(x []uint16) Vector { return Vector{Float16, halves(x)} }

func halves(x []uint16) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(x))), 2*len(x))
}

// Wire is the form in which a tree-ordered reduction of float32 values travels.
type Wire uint8

// WireF32 sends the values as they are. WireBF16 rounds the value of every node of the tree to bfloat16, wherever it is
// computed and the leaves too, and sends half the bytes; the bits of the result are still the same for every world size. A caller that
// merges shards itself must round the same way (kernels.Reduction with Round).
const (
	WireF32 Wire = iota
	WireBF16
)

func (w Wire) String() string {
	if w == WireBF16 {
		return "bf16"
	}
	return "f32"
}

// floats is the inverse of Of for float32: b begins and ends between elements.
func floats(b []byte) []float32 {
	return unsafe.Slice((*float32)(unsafe.Pointer(unsafe.SliceData(b))), len(b)/4)
}
