//go:build !linux

package kernels

import "errors"

var errNoPins = errors.New("threads can be bound to processors on Linux only")

func pins(int, int) ([]int, error) { return nil, errNoPins }

func bind(int) (release func()) { return func() {} }
