//go:build !cgo

package kernels

// isas are the instruction sets that C code may have: none in this build.
var isas []string

func findNative(_, _ string) engine { return nil }

// HasAMX is false in this build.
func HasAMX() bool { return false }
