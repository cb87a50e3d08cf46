package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Limits of what the parent waits for.
const (
	benchSlack       = 10 * time.Second // beyond a rank's own limits before it is given up
	benchAutopsy     = time.Second      // for the ranks of a broken group, or of one that is done, to end
	benchAutopsyStep = 5 * time.Millisecond
	maxBenchLine     = 32 << 20 // a rank's line: a result with maxBenchIters timings
)

// benchLocally runs the ranks as processes on this host and hands on each cell's timing.
func benchLocally(ctx context.Context, task *benchTask, each func(benchTiming) error) error {
	// The ranks die with the thread that started them.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	ctx, cancel := context.WithCancel(ctx)
	f := &benchProcs{task: task}
	defer func() {
		cancel()
		for _, r := range f.ranks {
			<-r.ended
		}
	}()
	if err := f.start(ctx); err != nil {
		return err
	}
	for _, c := range task.Cells {
		results := make([]benchResult, task.Ranks)
		for i := range f.ranks {
			if err := f.read(i, c.limit(), &results[i]); err != nil {
				return f.blame(i, err)
			}
			if results[i].Err != "" {
				return f.blame(i, errors.New(results[i].Err))
			}
		}
		t, err := mergeResults(results)
		if err == nil {
			err = each(t)
		}
		if err != nil {
			return err
		}
	}
	f.dismiss()
	return nil
}

// dismiss lets the ranks end by themselves.
func (f *benchProcs) dismiss() {
	limit := time.After(benchAutopsy)
	for _, r := range f.ranks {
		_ = r.stdin.Close()
	}
	for _, r := range f.ranks {
		select {
		case <-r.ended:
		case <-limit:
			return // they are killed
		}
	}
}

// limit is how long a cell may take.
func (c benchCell) limit() time.Duration {
	iters := c.Iters
	if iters == 0 {
		iters = maxBenchSamples
	}
	return benchForm + benchOpLimit*time.Duration(iters+c.Warmup+5) + benchSlack
}

// benchProcs are the ranks' processes.
type benchProcs struct {
	task  *benchTask
	ranks []*benchProc
}

// start brings all ranks up and tells them where the others are.
func (f *benchProcs) start(ctx context.Context) error {
	for range f.task.Ranks {
		r, err := startBenchRank(ctx)
		if err != nil {
			return err
		}
		f.ranks = append(f.ranks, r)
	}
	for i := range f.ranks {
		if err := f.tell(i, f.task); err != nil {
			return err
		}
	}
	addrs := make([]string, len(f.ranks))
	for i := range f.ranks {
		if err := f.read(i, benchForm, &addrs[i]); err != nil {
			return f.blame(i, err)
		}
	}
	for i := range f.ranks {
		if err := f.tell(i, benchSeat{Rank: i, Addrs: addrs}); err != nil {
			return err
		}
	}
	return nil
}

func (f *benchProcs) tell(rank int, v any) error {
	if err := json.NewEncoder(f.ranks[rank].stdin).Encode(v); err != nil {
		return f.blame(rank, err)
	}
	return nil
}

// read decodes the rank's next line into v; a line that says why the rank failed is an error.
func (f *benchProcs) read(rank int, limit time.Duration, v any) error {
	line, err := f.ranks[rank].line(limit)
	if err != nil {
		return err
	}
	var failed benchResult
	if json.Unmarshal(line, &failed) == nil && failed.Err != "" {
		return errors.New(failed.Err)
	}
	return json.Unmarshal(line, v)
}

// blame names the rank that broke the group, after rank i was seen to fail with err: one that died says nothing, and
// the others say that they lost it.
func (f *benchProcs) blame(i int, err error) error {
	limit := time.Now().Add(benchAutopsy)
	for running := true; running && time.Now().Before(limit); time.Sleep(benchAutopsyStep) {
		running = false
		for r, p := range f.ranks {
			select {
			case <-p.ended:
				if how := p.death(); how != "" {
					return fmt.Errorf("rank %d %s", r, how)
				}
			default:
				running = true
			}
		}
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = errors.New("it ended without a word")
	}
	return fmt.Errorf("rank %d: %w", i, err)
}

// benchProc is one rank's process.
type benchProc struct {
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	lines  chan []byte // closed at the end of its output
	stderr *headBuffer
	ended  chan struct{} // closed when it was waited for
}

func startBenchRank(ctx context.Context) (*benchProc, error) {
	cmd := exec.CommandContext(ctx, selfPath(), "bench", "rank")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	p := &benchProc{cmd: cmd, lines: make(chan []byte, 1), stderr: &headBuffer{}, ended: make(chan struct{})}
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
		defer close(p.ended)
		defer func() { _ = cmd.Wait() }()
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

// death says how an ended process died, if it did not fail in an orderly way.
func (p *benchProc) death() string {
	ws, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
	switch {
	case ok && ws.Signaled() && ws.Signal() == syscall.SIGKILL:
		return "was killed; if nobody did, the machine ran out of memory: use a smaller -e or fewer ranks"
	case ok && ws.Signaled():
		return "died of a signal: " + ws.Signal().String()
	case p.cmd.ProcessState.ExitCode() != exitFailed && p.cmd.ProcessState.ExitCode() != exitDone:
		return "crashed: " + p.stderr.line()
	}
	return ""
}

// headBuffer keeps the first bytes that were written to it: a crash says why in its first line, and stacks follow.
type headBuffer struct {
	mu sync.Mutex
	b  []byte
}

// maxHeadBytes is what a headBuffer keeps.
const maxHeadBytes = 8 << 10

func (h *headBuffer) Write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.b = append(h.b, p[:min(len(p), maxHeadBytes-len(h.b))]...)
	return len(p), nil
}

func (h *headBuffer) line() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	if line, _, _ := strings.Cut(strings.TrimSpace(string(h.b)), "\n"); line != "" {
		return line
	}
	return "it said nothing"
}
