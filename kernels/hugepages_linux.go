package kernels

import (
	"syscall"
	"unsafe"
)

// wantHugePages asks for huge pages in memory that has not been touched yet: a step walks through gigabytes, and a page of
// 4 KiB costs a table walk every few vectors. Where the system refuses, the memory is as good as before.
func wantHugePages(x []float32) {
	if len(x) == 0 {
		return
	}
	at := uintptr(unsafe.Pointer(&x[0]))
	skip := int((hugePage-at%hugePage)%hugePage) / 4
	if n := (len(x) - skip) * 4 / hugePage * hugePage; n > 0 {
		inner := unsafe.Slice((*byte)(unsafe.Pointer(&x[skip])), n)
		_ = syscall.Madvise(inner, syscall.MADV_HUGEPAGE)
	}
}
