//go:build cgo && asan

package kernels

// A build under the address sanitizer has the one for undefined behaviour as well. With more optimisation gcc takes many
// minutes for it.

// #cgo CFLAGS: -O1 -g -fsanitize=undefined
// #cgo LDFLAGS: -fsanitize=undefined
import "C"
