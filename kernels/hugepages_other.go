//go:build !linux

package kernels

// wantHugePages does nothing: the system decides alone.
func wantHugePages([]float32) {}
