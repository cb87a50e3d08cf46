package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	pb "github.com/farandole-ml/farandole/coordinator/coordinatorpb"
)

// maxWorkersFlag bounds worker counts on the command line.
const maxWorkersFlag = 4096

// jobOptions describe a job; `run` and `submit` share them.
type jobOptions struct {
	coordinator string
	workers     string // N, auto or cpu
	nproc       string // torchrun's name of workers
	nnodes      string // MIN:MAX or N
	min, max    int
	maxRestarts int
	logDir      string
	device      string
	reduce      string
	wire        string
	transport   string
	gpuReduce   string
	ckptDir     string
	ckptEvery   int64
	liveness    time.Duration
	settle      time.Duration
	threads     int
	pin         bool
	nan         string
	name        string
	env         []string
}

func (o *jobOptions) addFlags(f *pflag.FlagSet) {
	f.StringVar(&o.workers, "workers", "1", "workers to start with: a number, or auto for one per core")
	f.StringVar(&o.nproc, "nproc-per-node", "", "torchrun's name of --workers")
	f.StringVar(&o.nnodes, "nnodes", "", "`MIN:MAX` hosts of --workers each: sets --min and --max to that many times --workers")
	f.IntVar(&o.min, "min", 1, "fewest workers to train with; below, the job waits, then ends with exit code 3")
	f.IntVar(&o.max, "max", 0, "most workers to train with; more stay as spares (0: as many as the program has logical shards)")
	f.IntVar(&o.maxRestarts, "max-restarts", 0, "how many workers that died are started again; the others train on in any case")
	f.StringVar(&o.logDir, "log-dir", "", "`directory` for each worker's output, a file per worker")
	f.StringVar(&o.device, "device", "auto", "where workers compute: auto, cpu or cuda")
	f.StringVar(&o.reduce, "reduce", "tree", "how gradients are summed: tree (the same bits for any number of workers) or ring (fewest bytes)")
	f.StringVar(&o.wire, "wire", "f32", "number format of gradients between workers: f32, or bf16 for half the bytes")
	f.StringVar(&o.transport, "transport", "auto", "how gradients travel between workers: auto (the best there is, see --gpu-reduce), shm, uds, tcp, grpc or fabric")
	f.StringVar(&o.gpuReduce, "gpu-reduce", "auto", "where gradients on GPUs are reduced: auto (with --transport auto the first of these that all workers have), ipc (in memory that the GPUs of one host share), nccl (sent between GPUs, one a worker) or host")
	f.StringVar(&o.ckptDir, "checkpoint-dir", "", "`directory` of checkpoints; a job goes on from the newest complete one there")
	f.Int64Var(&o.ckptEvery, "checkpoint-every", 0, "`steps` between checkpoints (0: only at the end)")
	f.DurationVar(&o.liveness, "liveness", time.Second, "silence after which a worker is lost: shorter notices sooner, longer forgives a busy machine")
	f.DurationVar(&o.settle, "settle", time.Second, "how long joins are gathered: longer means fewer pauses, shorter means faster growth")
	f.IntVar(&o.threads, "threads", 0, "threads per worker (0: this machine's cores divided by --workers, at least 1)")
	f.BoolVar(&o.pin, "pin", false, "bind each computing thread to a processor")
	f.StringVar(&o.nan, "nan", "stop", "what a NaN or Inf in a gradient does: stop the job, or skip the step")
	f.StringVar(&o.name, "name", "", "name of the job (default: the program's)")
	f.StringArrayVar(&o.env, "env", nil, "`KEY=VALUE` to add to the workers' environment; may be repeated")
}

// spec checks the options and args and gives the job they describe, and how many workers to start here. All its
// errors are usage errors. It makes the directories that the job writes to.
func (o *jobOptions) spec(f *pflag.FlagSet, args []string) (*pb.JobSpec, int, error) {
	workers, err := o.countWorkers(f)
	if err != nil {
		return nil, 0, err
	}
	if err := o.applyNodes(f, workers); err != nil {
		return nil, 0, err
	}
	if err := o.check(f, workers); err != nil {
		return nil, 0, err
	}
	dir, err := os.Getwd()
	if err != nil {
		return nil, 0, usagef("the current directory is gone: %v", err)
	}
	command, err := o.command(args)
	if err != nil {
		return nil, 0, err
	}
	for _, d := range []struct {
		flag string
		path *string
	}{{"--log-dir", &o.logDir}, {"--checkpoint-dir", &o.ckptDir}} {
		if err := o.makeDir(d.flag, d.path); err != nil {
			return nil, 0, err
		}
	}
	threads := o.threads
	if threads == 0 && o.coordinator == "" {
		threads = max(1, runtime.GOMAXPROCS(0)/workers)
	}
	start := workers
	if o.max > 0 {
		start = min(start, o.max)
	}
	name := o.name
	if name == "" {
		name = filepath.Base(command[0])
	}
	return &pb.JobSpec{
		Name: name, Command: command, Env: o.env, Dir: dir,
		Min: int32(o.min), Max: int32(o.max), Start: int32(start),
		SettleNanos: int64(o.settle), LivenessNanos: int64(o.liveness), MaxRestarts: int32(o.maxRestarts),
		CheckpointDir: o.ckptDir, CheckpointEvery: o.ckptEvery, Reduce: o.reduce, Wire: o.wire, Transport: o.transport, GpuReduce: o.gpuReduce,
		Threads: int32(threads), Pin: o.pin, Device: o.device, LogDir: o.logDir, NanPolicy: o.nan,
	}, workers, nil
}

// countWorkers reads --workers or its other name.
func (o *jobOptions) countWorkers(f *pflag.FlagSet) (int, error) {
	flag, text := "--workers", o.workers
	if f.Changed("nproc-per-node") {
		if f.Changed("workers") && o.workers != o.nproc {
			return 0, usagef("--workers %s and --nproc-per-node %s are two names of one flag: give one", o.workers, o.nproc)
		}
		flag, text = "--nproc-per-node", o.nproc
	}
	switch text {
	case "auto", "cpu":
		return runtime.GOMAXPROCS(0), nil
	case "gpu":
		return 0, usagef("%s gpu is not in this build: give the number of workers", flag)
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > maxWorkersFlag {
		return 0, usagef("%s wants a number from 1 to %d, or auto for one per core, not %q", flag, maxWorkersFlag, text)
	}
	return n, nil
}

// applyNodes turns --nnodes into --min and --max, which win where they are given.
func (o *jobOptions) applyNodes(f *pflag.FlagSet, workers int) error {
	if !f.Changed("nnodes") {
		return nil
	}
	low, high, elastic := strings.Cut(o.nnodes, ":")
	if !elastic {
		high = low
	}
	least, err1 := strconv.Atoi(low)
	most, err2 := strconv.Atoi(high)
	if err1 != nil || err2 != nil || least < 1 || most < least || most > maxWorkersFlag {
		return usagef("--nnodes wants MIN:MAX, such as 1:4, not %q", o.nnodes)
	}
	if o.coordinator == "" && least > 1 {
		return usagef("--nnodes %s asks for %d hosts or more, and this is one: start a coordinator and agents, then use --coordinator", o.nnodes, least)
	}
	if !f.Changed("min") {
		o.min = least * workers
	}
	if !f.Changed("max") {
		o.max = most * workers
	}
	return nil
}

func (o *jobOptions) check(f *pflag.FlagSet, workers int) error {
	switch {
	case o.min < 1:
		return usagef("--min wants 1 or more, not %d", o.min)
	case o.max < 0 || o.max > maxWorkersFlag:
		return usagef("--max wants a number from 1 to %d, or 0 for no limit, not %d", maxWorkersFlag, o.max)
	case o.max > 0 && o.min > o.max:
		return usagef("--min %d is larger than --max %d: no number of workers fits both", o.min, o.max)
	case o.coordinator == "" && o.min > workers:
		return usagef("--min %d is larger than --workers %d: the job could never begin", o.min, workers)
	case o.maxRestarts < 0:
		return usagef("--max-restarts wants 0 or more, not %d", o.maxRestarts)
	case o.ckptEvery < 0:
		return usagef("--checkpoint-every wants 0 or more steps, not %d", o.ckptEvery)
	case o.ckptEvery > 0 && o.ckptDir == "":
		return usagef("--checkpoint-every needs --checkpoint-dir")
	case o.liveness < 50*time.Millisecond || o.liveness > time.Hour:
		return usagef("--liveness wants a time from 50ms to 1h, not %s", o.liveness)
	case o.settle <= 0 || o.settle > time.Hour:
		return usagef("--settle wants a time above zero, up to 1h, not %s", o.settle)
	case o.threads < 0 || o.threads > 4096:
		return usagef("--threads wants a number from 1 to 4096, or 0 to choose, not %d", o.threads)
	case o.wire == "bf16" && o.reduce == "ring":
		return usagef("--wire bf16 works with --reduce tree alone: give one of them")
	case (o.gpuReduce == "ipc" || o.gpuReduce == "nccl") && (o.wire == "bf16" || o.reduce == "ring"):
		return usagef("--gpu-reduce %s works with --reduce tree and --wire f32 alone: give one of them", o.gpuReduce)
	}
	for _, c := range []struct {
		flag, value string
		of          []string
	}{
		{"--device", o.device, []string{"auto", "cpu", "cuda"}},
		{"--reduce", o.reduce, []string{"tree", "ring"}},
		{"--wire", o.wire, []string{"f32", "bf16"}},
		{"--transport", o.transport, []string{"auto", "shm", "uds", "tcp", "grpc", "fabric"}},
		{"--gpu-reduce", o.gpuReduce, []string{"auto", "ipc", "nccl", "host"}},
		{"--nan", o.nan, []string{"stop", "skip"}},
	} {
		if err := oneOf(c.flag, c.value, c.of...); err != nil {
			return err
		}
	}
	for _, kv := range o.env {
		if k, _, ok := strings.Cut(kv, "="); !ok || k == "" {
			return usagef("--env wants KEY=VALUE, not %q", kv)
		}
	}
	if f.Changed("coordinator") {
		if _, _, err := net.SplitHostPort(o.coordinator); err != nil {
			return usagef("--coordinator wants host:port, not %q", o.coordinator)
		}
	}
	if strings.ContainsAny(o.name, "/ \t\n") {
		return usagef("--name %q must have no spaces and no slashes", o.name)
	}
	return nil
}

func oneOf(flag, value string, of ...string) error {
	if slices.Contains(of, value) {
		return nil
	}
	of = slices.DeleteFunc(slices.Clone(of), func(v string) bool { return v == "" }) // that is to leave the flag out
	return usagef("%s wants %s, not %q", flag, strings.Join(of, " or "), value)
}

// command is the program and its arguments. Where the workers run on this machine the program is looked for now,
// and becomes an absolute path.
func (o *jobOptions) command(args []string) ([]string, error) {
	if len(args) == 0 || args[0] == "" {
		return nil, usagef("no program given: put it behind --, as in `farandole run --workers 4 -- ./train --steps 100`")
	}
	if !o.local() {
		return args, nil
	}
	path, err := exec.LookPath(args[0])
	if err != nil && !errors.Is(err, exec.ErrDot) {
		return nil, programError(args[0], err)
	}
	path, err = filepath.Abs(path)
	if err != nil {
		return nil, usagef("program %s: %v", args[0], err)
	}
	return append([]string{path}, args[1:]...), nil
}

// local says whether the workers run on this machine, as far as can be known.
func (o *jobOptions) local() bool {
	if o.coordinator == "" {
		return true
	}
	host, _, err := net.SplitHostPort(o.coordinator)
	if err != nil {
		return false
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

func programError(name string, err error) error {
	st, serr := os.Stat(name)
	switch {
	case serr == nil && st.IsDir():
		return usagef("program %s is a directory", name)
	case serr == nil && strings.Contains(name, "/"):
		return usagef("program %s is not executable: try `chmod +x %s`", name, name)
	case serr == nil:
		return usagef("program %s is not in PATH: for the file in this directory say ./%s", name, name)
	case strings.Contains(name, "/"):
		return usagef("program %s does not exist", name)
	case errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist):
		return usagef("program %s is not in PATH: give its path, such as ./%s", name, name)
	}
	return usagef("program %s: %v", name, err)
}

// makeDir makes *path absolute and, where the workers run here, makes sure that it can be written to.
func (o *jobOptions) makeDir(flag string, path *string) error {
	if *path == "" {
		return nil
	}
	if strings.Contains(*path, "://") {
		return usagef("%s %s: only directories are supported in this build", flag, *path)
	}
	abs, err := filepath.Abs(*path)
	if err != nil {
		return usagef("%s %s: %v", flag, *path, err)
	}
	*path = abs
	if !o.local() {
		return nil
	}
	return writableDir(flag, abs)
}

// writableDir makes a directory, and proves that a file can be put there.
func writableDir(flag, path string) error {
	if err := os.MkdirAll(path, 0o755); err != nil {
		return usagef("%s: cannot make the directory %s: %v", flag, path, causeOf(err))
	}
	f, err := os.CreateTemp(path, ".farandole-*")
	if err != nil {
		return usagef("%s: cannot write to %s: %v", flag, path, causeOf(err))
	}
	f.Close()
	return os.Remove(f.Name())
}

// causeOf drops the path that a *fs.PathError repeats.
func causeOf(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return fmt.Errorf("%w", pe.Err)
	}
	return err
}
