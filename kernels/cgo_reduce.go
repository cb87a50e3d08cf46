//go:build cgo

package kernels

// #include "cgo.h"
import "C"

import (
	"runtime"
	"sync"
	"unsafe"
)

// fewArrays is up to how many sources and destinations have their addresses on the stack.
const fewArrays = 24

// manyArrays lends room for the addresses of more.
var manyArrays = sync.Pool{New: func() any { return new([]uintptr) }}

func (e *native) reduce(r *Reduction, dsts, srcs [][]byte, stream bool) {
	if len(srcs) == 2 && len(dsts) == 1 && r.Order == nil && r.Divisor <= 1 && !r.Round {
		e.reduce2(r.Type, r.Op, dsts[0], srcs[0], srcs[1], stream)
		return
	}
	arrays := len(dsts) + len(srcs)
	if arrays <= fewArrays {
		var few [fewArrays]uintptr
		e.reduceAt(few[:0], r, dsts, srcs, stream)
		return
	}
	many := manyArrays.Get().(*[]uintptr)
	if cap(*many) < arrays {
		*many = make([]uintptr, 0, arrays)
	}
	e.reduceAt((*many)[:0], r, dsts, srcs, stream)
	manyArrays.Put(many)
}

// reduceAt gives C the addresses as integers, because memory that C sees must hold no Go pointers. The arrays do not
// move: what an engine's method gets is on the heap or outside Go, and KeepAlive holds it there.
func (e *native) reduceAt(at []uintptr, r *Reduction, dsts, srcs [][]byte, stream bool) {
	for _, d := range dsts {
		at = append(at, uintptr(unsafe.Pointer(unsafe.SliceData(d))))
	}
	for _, s := range srcs {
		at = append(at, uintptr(unsafe.Pointer(unsafe.SliceData(s))))
	}
	C.farandole_reduce(e.ops, (*C.uintptr_t)(unsafe.Pointer(unsafe.SliceData(at))),
		(*C.int16_t)(unsafe.SliceData(r.Order)), C.long(len(dsts)), C.long(len(srcs)), C.long(len(r.Order)),
		C.long(len(dsts[0])), C.long(r.Divisor), C.int(r.Type), C.int(r.Op), flag(r.Round), flag(stream))
	runtime.KeepAlive(dsts)
	runtime.KeepAlive(srcs)
}

func (e *native) reduce2(t DType, op RedOp, dst, a, b []byte, stream bool) {
	C.farandole_reduce2(e.ops, address(dst), address(a), address(b), C.long(len(dst)), C.int(t), C.int(op), flag(stream))
}

func (e *native) encodeBF16(dst []byte, src []float32) {
	C.farandole_encode_bf16(e.ops, address(dst), ptr(src), C.long(len(src)))
}

func (e *native) decodeBF16(dst []float32, src []byte) {
	C.farandole_decode_bf16(e.ops, ptr(dst), address(src), C.long(len(dst)))
}

func (e *native) encodeInt8(dst []byte, src []float32) {
	C.farandole_encode_int8(e.ops, address(dst), ptr(src), C.long(len(src)))
}

func (e *native) decodeInt8(dst []float32, src []byte) {
	C.farandole_decode_int8(e.ops, ptr(dst), address(src), C.long(len(dst)))
}

func (e *native) residual(x, sent []float32) {
	C.farandole_residual(e.ops, ptr(x), ptr(sent), C.long(len(x)))
}

// address has a type without pointers behind it, so that cgo need not look whether there are any.
func address(b []byte) *C.uint8_t { return (*C.uint8_t)(unsafe.SliceData(b)) }

func flag(b bool) C.int {
	if b {
		return 1
	}
	return 0
}
