//go:build !cgo

package kernels

// SetFirstCache has nothing to do in plain Go.
func SetFirstCache(int) int { return 0 }

// EmulateProducts has nothing to do in plain Go.
func EmulateProducts(Device) {}
