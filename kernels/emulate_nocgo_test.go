//go:build !cgo

package kernels

// EmulateProducts has nothing to do in plain Go.
func EmulateProducts(Device) {}
