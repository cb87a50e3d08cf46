package kernels

import (
	"fmt"
	"runtime"
)

// Config chooses how NewCPU computes. The zero value uses every processor and the best instruction set.
type Config struct {
	// Threads is how many goroutines compute at once, the caller's among them. Zero means GOMAXPROCS.
	// More than the machine has free processors makes every operation wait for the slowest.
	Threads int
	// ISA forces an instruction set: "avx512", "avx2", "portable" (C), or "go". Empty means the best that
	// this machine and build have. All give the same bits.
	ISA string
}

// NewCPU is a Device on this machine's processors. It starts goroutines with the first operation that is worth more
// than one and ends them with Close. Operations have ended when they return; Host gives the memory itself.
func NewCPU(cfg Config) (Device, error) {
	if cfg.Threads < 0 {
		return nil, fmt.Errorf("kernels: %d threads: use 0 for all processors, or a positive number", cfg.Threads)
	}
	if cfg.Threads == 0 {
		cfg.Threads = runtime.GOMAXPROCS(0)
	}
	switch cfg.ISA {
	case "", "go":
		return newHostDevice(fmt.Sprintf("cpu go, %d threads", cfg.Threads), reference{}, &pool{threads: cfg.Threads}), nil
	}
	return nil, fmt.Errorf("kernels: instruction set %q is not in this build", cfg.ISA)
}
