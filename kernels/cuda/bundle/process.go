package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// endGrace is how long a process has to end after it was told to.
	endGrace = 3 * time.Second
	// maxOutput is how much of a process's output is looked at, from its end.
	maxOutput = 16 << 20
	// lastLines is how many lines of a failure's log the report has.
	lastLines = 15
)

// ended is how a process ended.
type ended struct {
	code   int    // -1: by a signal, or it never began
	late   bool   // it ran into its limit
	err    error  // nil for code 0
	output string // both streams
}

// bench runs a part's processes, one after the other. Their output goes to the part's log.
type bench struct {
	options
	log      *os.File
	env      []string // added to the environment's
	products string   // what multiplies, where it is not the program itself
}

// program is the path of an unpacked program of the bundle.
func (b *bench) program(name string) string { return filepath.Join(b.programs, name) }

// run runs a command to its end, at most for limit. When ctx ends or the limit is reached, its whole process group is ended, and
// nothing that it started outlives it.
func (b *bench) run(ctx context.Context, limit time.Duration, argv ...string) ended {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	fmt.Fprintf(b.log, "$ %s\n", strings.Join(argv, " "))
	start, err := b.log.Seek(0, io.SeekEnd)
	if err != nil {
		return ended{code: -1, err: err}
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = b.log, b.log
	cmd.Env = append(os.Environ(), b.env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL} // it does not outlive us, however we end
	if err := cmd.Start(); err != nil {
		fmt.Fprintln(b.log, err)
		return ended{code: -1, err: err, output: err.Error()}
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	var e ended
	select {
	case e.err = <-done:
	case <-ctx.Done():
		e.late = errors.Is(ctx.Err(), context.DeadlineExceeded)
		e.err = endGroup(cmd.Process.Pid, done)
		if e.err == nil {
			e.err = errors.New("it ended when it was told to")
		}
		if e.late {
			e.err = fmt.Errorf("did not end within %v: %w", limit.Round(time.Second), e.err)
		}
	}
	sweep()
	e.code = cmd.ProcessState.ExitCode()
	if e.err != nil && e.code == 0 {
		e.code = -1
	}
	e.output = tail(b.log, start)
	fmt.Fprintf(b.log, "\n[exit code %d]\n", e.code)
	return e
}

// endGroup tells a process group to end, then makes it.
func endGroup(pid int, done <-chan error) error {
	_ = syscall.Kill(-pid, syscall.SIGINT)
	select {
	case err := <-done:
		_ = syscall.Kill(-pid, syscall.SIGKILL) // what else there is of it
		return err
	case <-time.After(endGrace):
	}
	_ = syscall.Kill(-pid, syscall.SIGKILL)
	return <-done
}

// adopt makes this process the parent of what its children leave behind.
func adopt() error { return unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) }

// maxSweeps bounds how often sweep looks: what it kills may leave children of its own.
const maxSweeps = 20

// sweep kills what ended processes have left behind. No command of ours runs.
func sweep() {
	for range maxSweeps {
		left := children()
		if len(left) == 0 {
			return
		}
		for _, pid := range left {
			_ = syscall.Kill(pid, syscall.SIGKILL)
			_, _ = syscall.Wait4(pid, nil, 0, nil)
		}
	}
}

func children() (pids []int) {
	files, _ := filepath.Glob("/proc/self/task/*/children")
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			continue // the thread ended
		}
		for _, s := range strings.Fields(string(text)) {
			if pid, err := strconv.Atoi(s); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// tail is what a log has from start on.
func tail(f *os.File, start int64) string {
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err.Error()
	}
	start = max(start, end-maxOutput)
	text := make([]byte, end-start)
	n, _ := f.ReadAt(text, start)
	return string(text[:n])
}

// last is the last lines of a text that say something.
func last(text string) []string {
	var lines []string
	for line := range strings.Lines(text) {
		if line = strings.TrimRight(line, " \r\n"); line != "" {
			lines = append(lines, line)
		}
	}
	return lines[max(0, len(lines)-lastLines):]
}
