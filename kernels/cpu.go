package kernels

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
)

// Config chooses how Open's and NewCPU's devices compute. The zero value uses every processor and the best instruction set.
type Config struct {
	// Threads is how many goroutines compute at once, the caller's among them. Zero means Processors.
	// More than the machine has free processors makes every operation wait for the slowest. Where GOMAXPROCS is not
	// larger, a CPU's device raises it to one more, for the rest of the program's life.
	Threads int
	// ISA forces an instruction set: "avx512", "avx2", "neon", "portable" (C), or "go". Empty means the best that
	// this machine and build have. All give the same bits.
	ISA string
	// Products is ProductsOwn, which empty means, or, with ClassBF16, ProductsAMX for a CPU or ProductsCuBLASLt for a GPU.
	Products string
	// Precision is ClassF32 or ClassBF16; empty means ClassF32. ClassBF16 rounds the factors of linear layers
	// to bfloat16, which processors with avx512_bf16 multiply twice as fast; others emulate it, slower than float32. It is
	// also the numerics class, but on a GPU, which has one of its own with ClassBF16MMA.
	Precision string
	// Pin binds each thread of a CPU to a processor of its own, on Linux: the workers of a host take those that the process may use in
	// turn, by LocalRank, and share them when there are more threads than processors. Calls wait for those threads, which
	// costs small operations microseconds: for machines where the system moves threads about, or memory is near to some processors.
	Pin bool

	// LocalRank is this worker's number among those of its host. Workers share a host's GPUs by it.
	LocalRank int
	// Logger is told what Open chose; nil means slog.Default.
	Logger *slog.Logger
}

// maxThreads bounds Config.Threads. A task's parts are counted in 16 bits, and some tasks have one for each thread.
const maxThreads = 4096

// isaGo is the instruction set of plain Go, which every build has.
const isaGo = "go"

// NewCPU is a Device on this machine's processors. It starts goroutines with the first operation that is worth more
// than one and ends them with Close. Operations have ended when they return; Host gives the memory itself.
// A build without cgo has only the plain Go path.
func NewCPU(cfg Config) (Device, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	class, err := cfg.class()
	if err != nil {
		return nil, err
	}
	what := cfg.ISA
	if class != ClassF32 {
		what += " " + class
	}
	name := fmt.Sprintf("cpu %s, %d thread", what, cfg.Threads)
	if cfg.Threads > 1 {
		name += "s"
	}
	p := &pool{threads: cfg.Threads}
	if cfg.Pin {
		if p.pins, err = pins(cfg.LocalRank, cfg.Threads); err != nil {
			return nil, fmt.Errorf("kernels: pin: %w", err)
		}
		name += ", pinned"
	}
	leaveSlot(cfg.Threads)
	cfg.advise(class)
	return newHostDevice(name, class, newEngine(cfg.ISA, class), p), nil
}

// advise tells the log where another choice of products would be faster.
func (c *Config) advise(class string) {
	here := c.ISA == "avx512" && HasAMX()
	switch {
	case c.Logger == nil:
	case class == ClassBF16AMX && !here:
		c.Logger.Warn("products amx are slow here: there is no AMX, or another instruction set was asked for", "instructions", c.ISA)
	case class == ClassBF16 && here:
		c.Logger.Info("this processor has AMX: products amx would be faster, with other bits")
	}
}

// class is that of a CPU, whose Precision is complete.
func (c *Config) class() (string, error) {
	switch {
	case c.Products == "" || c.Products == ProductsOwn:
		return c.Precision, nil
	case c.Products == ProductsAMX && c.Precision == ClassBF16:
		return ClassBF16AMX, nil
	case c.Products == ProductsAMX:
		return "", fmt.Errorf("kernels: products %s: it multiplies bfloat16: use precision %s with it, or products %s", ProductsAMX, ClassBF16, ProductsOwn)
	}
	return "", fmt.Errorf("kernels: products %s: a CPU has only products %s and %s: leave that out, or use device cuda", c.Products, ProductsOwn, ProductsAMX)
}

// complete fills in what NewCPU takes for zero values, and says what it does not take.
func (c *Config) complete() error {
	if c.Threads < 0 || c.Threads > maxThreads {
		return fmt.Errorf("kernels: threads %d: use 0 for all processors, or a number up to %d", c.Threads, maxThreads)
	}
	if c.Threads == 0 {
		c.Threads = Processors()
	}
	have := ISAs()
	if c.ISA == "" {
		c.ISA = have[0]
	}
	if !slices.Contains(have, c.ISA) {
		return fmt.Errorf("kernels: instruction set %q: this machine and build have %s",
			c.ISA, strings.Join(have, ", "))
	}
	switch c.Precision {
	case "":
		c.Precision = ClassF32
	case ClassF32, ClassBF16:
	default:
		return fmt.Errorf("kernels: precision %q: use %s or %s", c.Precision, ClassF32, ClassBF16)
	}
	return nil
}

// ISAs are the values of Config.ISA that work on this machine and in this build, the fastest first.
func ISAs() []string {
	var have []string
	for _, isa := range isas {
		if findNative(isa, ClassF32) != nil {
			have = append(have, isa)
		}
	}
	return append(have, isaGo)
}

func newEngine(isa, class string) engine {
	if isa == isaGo {
		return reference{class}
	}
	return findNative(isa, class)
}

// best is the fastest engine, for the operations that need no device.
var best = sync.OnceValue(func() engine { return newEngine(ISAs()[0], ClassF32) })
