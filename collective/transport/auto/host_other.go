//go:build !linux

package auto

func hostID() string { return "" }
