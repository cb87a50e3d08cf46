package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"os/signal"
	"runtime"
	"slices"
	"syscall"
	"time"

	"github.com/spf13/cobra"
)

// benchSlack is what a rank may take beyond its own limits before it is given up.
const benchSlack = 10 * time.Second

// maxBenchLine bounds a rank's line: a result with maxBenchIters timings.
const maxBenchLine = 32 << 20

func runBench(cmd *cobra.Command, op benchOp, o *benchOptions) error {
	sizes, err := o.sizes(op)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	p := newBenchPrinter(cmd.OutOrStdout(), op, o)
	p.head()
	err = benchRanks(ctx, op, o, sizes, func(rs []benchResult) { p.row(rs) })
	if ctx.Err() != nil {
		return &exitError{exitInterrupted, errors.New("interrupted")}
	}
	if err != nil {
		return failf("bench %s: %w", op.name, err)
	}
	return p.foot()
}

// benchRanks runs the ranks and hands on the results of each size, one per rank.
func benchRanks(ctx context.Context, op benchOp, o *benchOptions, sizes []int64, each func([]benchResult)) error {
	// The ranks die with the thread that started them.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	ctx, cancel := context.WithCancel(ctx)
	ranks := make([]*benchProc, o.ranks)
	defer func() {
		cancel()
		for _, r := range ranks {
			if r != nil {
				_ = r.cmd.Wait()
			}
		}
	}()
	for i := range ranks {
		r, err := startBenchRank(ctx, o.checksum)
		if err != nil {
			return err
		}
		ranks[i] = r
	}
	addrs := make([]string, o.ranks)
	for i, r := range ranks {
		line, err := r.line(benchForm)
		if err == nil {
			err = json.Unmarshal(line, &addrs[i])
		}
		if err != nil {
			return fmt.Errorf("rank %d did not start: %w", i, r.why(line, err))
		}
	}
	for i, r := range ranks {
		t := benchTask{Op: op.name, Rank: i, Addrs: addrs, Sizes: sizes, Iters: o.iters, Warmup: o.warmup,
			Algorithm: o.algorithm, Shards: o.shards}
		if err := json.NewEncoder(r.stdin).Encode(t); err != nil {
			return fmt.Errorf("rank %d is gone: %w", i, err)
		}
	}
	for range sizes {
		results := make([]benchResult, o.ranks)
		limit := benchForm + benchOpLimit*time.Duration(o.iters+o.warmup+5) + benchSlack
		for i, r := range ranks {
			line, err := r.line(limit)
			if err == nil {
				err = json.Unmarshal(line, &results[i])
			}
			if err != nil || results[i].Err != "" {
				return fmt.Errorf("rank %d: %w", i, r.why(line, err))
			}
		}
		each(results)
	}
	return nil
}

// benchProc is one rank's process.
type benchProc struct {
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	lines  chan []byte // closed at the end of its output
	stderr *tailBuffer
}

func startBenchRank(ctx context.Context, checksum bool) (*benchProc, error) {
	cmd := exec.CommandContext(ctx, selfPath(), "bench", "rank", fmt.Sprintf("--checksum=%v", checksum))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	p := &benchProc{cmd: cmd, lines: make(chan []byte, 1), stderr: &tailBuffer{}}
	cmd.Stderr = p.stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.stdin = stdin
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("cannot start a rank: %w", err)
	}
	go func() {
		defer close(p.lines)
		sc := bufio.NewScanner(stdout)
		sc.Buffer(make([]byte, 64<<10), maxBenchLine)
		for sc.Scan() {
			select {
			case p.lines <- slices.Clone(sc.Bytes()):
			case <-ctx.Done():
				return
			}
		}
	}()
	return p, nil
}

// line is the rank's next line.
func (p *benchProc) line(limit time.Duration) ([]byte, error) {
	t := time.NewTimer(limit)
	defer t.Stop()
	select {
	case l, ok := <-p.lines:
		if !ok {
			return nil, io.ErrUnexpectedEOF
		}
		return l, nil
	case <-t.C:
		return nil, fmt.Errorf("no answer within %s", limit)
	}
}

// why is the best explanation of a rank's failure: its own, its standard error, or what was seen from here.
func (p *benchProc) why(line []byte, err error) error {
	var r benchResult
	if json.Unmarshal(line, &r) == nil && r.Err != "" {
		return errors.New(r.Err)
	}
	if text := p.stderr.String(); text != "" {
		return errors.New(lastLine(text))
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("it ended without a word; was it killed for memory?")
	}
	return err
}
