// Command report runs, on a machine with a GPU, everything that can be known there about a build: whether its bits are the CPU's,
// whether its tests pass on the real driver, and how fast it is. It is part of the folder that `make gpu-bundle` makes, and
// run.sh there starts it. Each part runs by itself, with a limit and a log; none stops the others.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Exit codes.
const (
	exitPassed      = 0
	exitFailed      = 1 // a check failed
	exitUsage       = 2
	exitNoGPU       = 3
	exitUnfinished  = 4 // nothing failed, and not all was run
	exitInterrupted = 130
)

// defaultLimit is for everything together.
const defaultLimit = 9 * time.Minute

// options is the command line.
type options struct {
	bundle   string // the folder of run.sh
	programs string // where run.sh unpacked the programs; removed at the end
	out      string
	limit    time.Duration
	tiny     bool
	expect   string
}

// A process that dies with its parent dies with the thread that began it: here that is the main one, which lasts.
func init() { runtime.LockOSThread() }

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

func run(args []string, stdout, stderr io.Writer) int {
	var o options
	f := flag.NewFlagSet("run.sh", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.StringVar(&o.bundle, "bundle", ".", "the folder of run.sh")
	f.StringVar(&o.programs, "programs", "", "folder with the unpacked programs, removed at the end")
	f.DurationVar(&o.limit, "limit", defaultLimit, "for everything together; what does not fit is reported as not run")
	f.BoolVar(&o.tiny, "tiny", false, "sizes that only show that every part runs")
	f.StringVar(&o.expect, "expect", "", "write the weights that the CPU trains to this file, and end: for the build")
	if err := f.Parse(args); errors.Is(err, flag.ErrHelp) {
		return exitPassed
	} else if err != nil {
		return exitUsage
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	if o.expect != "" {
		if err := writeExpected(ctx, o, stdout); err != nil {
			fmt.Fprintln(stderr, "report:", err)
			return exitFailed
		}
		return exitPassed
	}
	if o.programs != "" {
		defer func() { _ = os.RemoveAll(o.programs) }()
	}
	if o.out = f.Arg(0); o.out == "" {
		o.out = "gpu-report"
	}
	if f.NArg() > 1 || o.limit <= 0 {
		fmt.Fprintln(stderr, "usage: run.sh [-limit 9m] [-tiny] [OUT]")
		return exitUsage
	}
	unlock, err := lock(filepath.Join(os.TempDir(), "farandole-gpu-report.lock"))
	if err != nil {
		fmt.Fprintln(stderr, "report:", err)
		return exitUsage
	}
	defer unlock()
	r, err := newRunner(o, stdout)
	if err != nil {
		fmt.Fprintln(stderr, "report:", err)
		return exitUsage
	}
	r.runAll(ctx, plan(o))
	return r.finish(ctx)
}

// lock keeps two runs from measuring each other.
func lock(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o666)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("%s is locked: another run measures on this machine; wait until it ends: %w", path, err)
	}
	return func() { _ = f.Close() }, nil
}
