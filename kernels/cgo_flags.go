//go:build cgo && !asan

package kernels

// #cgo CFLAGS: -O3
import "C"
