//go:build !cgo

package kernels

// EmulatePairs has nothing to do in plain Go.
func EmulatePairs(Device) {}
