package worker

import (
	"crypto/rand"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/farandole-ml/farandole/collective/transport/auto"
	"github.com/farandole-ml/farandole/elastic"
	"github.com/farandole-ml/farandole/kernels"
)

// What a worker does when the reduced gradient is not finite.
const (
	NaNStop = "stop" // the job fails and names step, shard and tensor
	NaNSkip = "skip" // the step counts, its update is left out
)

// How gradients are summed.
const (
	ReduceTree = "tree" // the same bits for any world size
	ReduceRing = "ring" // fewest bytes; deterministic for a fixed roster
)

// What gradients travel as between workers.
const (
	WireF32  = "f32"
	WireBF16 = "bf16" // half the bytes; every node of the reduction tree is rounded, so the bits stay the same for any world size
)

// Where the gradients of a Resident are reduced.
const (
	GPUReduceAuto = "auto" // in the first of these ways that all workers of the generation have
	GPUReduceIPC  = "ipc"  // in the memory of GPUs that reach each other's, or by way of the host
	GPUReduceNCCL = "nccl" // between GPUs, one a worker, or by way of the host
	GPUReduceHost = "host"
)

// Config says which job a Session belongs to. The zero value trains alone.
type Config struct {
	Coordinator string           // host:port; empty means alone
	Job         string           // id of the job
	Member      elastic.MemberID // this worker; empty means one made from host and process
	Host        string           // workers of equal Host share memory; empty means the host's name
	LocalRank   int              // slot on the host
	LocalWorld  int              // workers on this host; zero means 1

	// Listen is the address of the data plane. Empty means 127.0.0.1:0.
	Listen string

	// Transport is how gradients and state travel between workers: auto.Path. Empty means auto, the best path there is: for the gradients
	// of a Resident what GPUReduce says, and with any other path the host's.
	// All workers of a job must use the same.
	Transport string

	// GPUReduce is where the gradients of a Resident are reduced: one of the above. Empty means auto. What is not possible for one worker is
	// not done by any, whatever the others ask for. With ipc and nccl Transport is for the rest; they need the tree and float32.
	GPUReduce string

	// Liveness is the one failure-detection knob (elastic.LimitsOf). Longer forgives slower hosts, shorter
	// recovers faster. Zero means 1 s.
	Liveness time.Duration

	CheckpointDir   string // empty means no checkpoints
	CheckpointEvery int64  // steps between checkpoints; zero means only one, at the end

	Reduce string // ReduceTree or ReduceRing; empty means tree
	Wire   string // WireF32 or WireBF16; empty means f32

	// BucketBytes is about how much of a gradient is reduced by one operation in a program whose Plan says Overlap. Smaller begins
	// sooner, larger has fewer operations. Zero means a quarter of the gradient, but at least 256 KiB and at most 8 MiB.
	// All workers must use the same.
	BucketBytes int

	Threads int    // to compute with; zero means this worker's part of the host's
	Pin     bool   // bind the computing threads to processors
	Device  string // for the program: auto, cpu, cuda; empty means auto
	NaN     string // NaNStop or NaNSkip; empty means stop

	// Fault injects one fault at a point of the protocol, for tests; nil means none.
	Fault *Fault

	Logger *slog.Logger // nil means slog.Default
}

// ConfigFromEnv reads the environment that an agent gives its workers.
// Without FARANDOLE_COORDINATOR the worker trains alone; the other variables hold as well. A bad value is a *UsageError.
func ConfigFromEnv() (Config, error) {
	e := environment{}
	c := Config{
		Coordinator:     os.Getenv("FARANDOLE_COORDINATOR"),
		Job:             os.Getenv("FARANDOLE_JOB"),
		Member:          elastic.MemberID(os.Getenv("FARANDOLE_MEMBER")),
		Host:            os.Getenv("FARANDOLE_HOST"),
		LocalRank:       int(e.integer("FARANDOLE_LOCAL_RANK")),
		LocalWorld:      int(e.integer("LOCAL_WORLD_SIZE")),
		Listen:          os.Getenv("FARANDOLE_LISTEN"),
		Transport:       os.Getenv("FARANDOLE_TRANSPORT"),
		GPUReduce:       os.Getenv("FARANDOLE_GPU_REDUCE"),
		Liveness:        e.duration("FARANDOLE_LIVENESS"),
		CheckpointDir:   os.Getenv("FARANDOLE_CHECKPOINT_DIR"),
		CheckpointEvery: e.integer("FARANDOLE_CHECKPOINT_EVERY"),
		Reduce:          os.Getenv("FARANDOLE_REDUCE"),
		Wire:            os.Getenv("FARANDOLE_WIRE"),
		Threads:         int(e.integer("FARANDOLE_THREADS")),
		Pin:             e.truth("FARANDOLE_PIN"),
		Device:          os.Getenv("FARANDOLE_DEVICE"),
		NaN:             os.Getenv("FARANDOLE_NAN"),
	}
	level := slog.LevelWarn
	if v := os.Getenv("FARANDOLE_LOG"); v != "" {
		if err := level.UnmarshalText([]byte(v)); err != nil {
			e.bad("FARANDOLE_LOG", v, "debug, info, warn or error")
		}
	}
	c.Logger = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	if v := os.Getenv("FARANDOLE_FAULT"); v != "" {
		f, err := ParseFault(v)
		if err != nil {
			return c, &UsageError{err.Error()}
		}
		c.Fault = f
	}
	if e.err != nil {
		return c, e.err
	}
	return c, c.withDefaults().validate()
}

// environment parses variables and keeps the first mistake.
type environment struct{ err error }

func (e *environment) bad(name, value, want string) {
	if e.err == nil {
		e.err = &UsageError{fmt.Sprintf("%s=%q is not %s", name, value, want)}
	}
}

func (e *environment) integer(name string) int64 {
	v := os.Getenv(name)
	if v == "" {
		return 0
	}
	n, err := strconv.ParseInt(v, 10, 32)
	if err != nil || n < 0 {
		e.bad(name, v, "a whole number of zero or more")
	}
	return n
}

func (e *environment) truth(name string) bool {
	v := os.Getenv(name)
	if v == "" {
		return false
	}
	b, err := strconv.ParseBool(v)
	if err != nil {
		e.bad(name, v, "true or false")
	}
	return b
}

func (e *environment) duration(name string) time.Duration {
	v := os.Getenv(name)
	if v == "" {
		return 0
	}
	d, err := time.ParseDuration(v)
	if err != nil || d <= 0 {
		e.bad(name, v, "a positive duration such as 1s or 300ms")
	}
	return d
}

func (c Config) withDefaults() Config {
	set := func(v *string, to string) {
		if *v == "" {
			*v = to
		}
	}
	if c.Host == "" {
		c.Host, _ = os.Hostname()
	}
	if c.Member == "" {
		c.Member = elastic.MemberID(fmt.Sprintf("%s-%d-%s", c.Host, os.Getpid(), rand.Text()[:6]))
	}
	set(&c.Listen, "127.0.0.1:0")
	set(&c.Reduce, ReduceTree)
	set(&c.Wire, WireF32)
	set(&c.Transport, string(auto.Any))
	set(&c.GPUReduce, GPUReduceAuto)
	set(&c.NaN, NaNStop)
	set(&c.Device, "auto")
	if c.Liveness <= 0 {
		c.Liveness = time.Second
	}
	if c.LocalWorld < 1 {
		c.LocalWorld = 1
	}
	if c.Threads < 1 {
		c.Threads = max(1, kernels.Processors()/c.LocalWorld)
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return c
}

func (c Config) validate() error {
	if _, err := auto.ParsePath(c.Transport); err != nil {
		return &UsageError{err.Error()}
	}
	bad := func(format string, args ...any) error { return &UsageError{fmt.Sprintf(format, args...)} }
	switch {
	case c.Coordinator != "" && c.Job == "":
		return bad("FARANDOLE_COORDINATOR is set but FARANDOLE_JOB is not: start the program by farandole run, or unset both to train alone")
	case c.Reduce != ReduceTree && c.Reduce != ReduceRing:
		return bad("reduce %q is not known: use tree or ring", c.Reduce)
	case c.Wire != WireF32 && c.Wire != WireBF16:
		return bad("wire %q is not known: use f32 or bf16", c.Wire)
	case c.Wire == WireBF16 && c.Reduce != ReduceTree:
		return bad("wire bf16 works with reduce tree alone: every node of the tree is rounded, whoever adds it")
	case !slices.Contains([]string{GPUReduceAuto, GPUReduceIPC, GPUReduceNCCL, GPUReduceHost}, c.GPUReduce):
		return bad("gpu-reduce %q is not known: use auto, ipc, nccl or host", c.GPUReduce)
	case c.GPUReduce == GPUReduceIPC && c.Reduce != ReduceTree:
		return bad("gpu-reduce ipc works with reduce tree alone")
	case c.GPUReduce == GPUReduceNCCL && (c.Reduce != ReduceTree || c.Wire != WireF32):
		return bad("gpu-reduce nccl works with reduce tree and wire f32 alone")
	case c.NaN != NaNStop && c.NaN != NaNSkip:
		return bad("NaN policy %q is not known: use stop or skip", c.NaN)
	case c.CheckpointEvery < 0:
		return bad("a checkpoint every %d steps is not possible: use 0 for one at the end", c.CheckpointEvery)
	}
	return nil
}
