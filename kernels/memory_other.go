//go:build !linux

package kernels

// CheckRoom knows of no limit here.
func CheckRoom(int) error { return nil }
