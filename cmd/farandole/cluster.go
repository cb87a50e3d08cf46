package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// cluster is a coordinator and an agent on this machine, for one `run`. The coordinator is a child process, so
// that killing it is what a crash is; it is started again at once. The agent runs in this process.
type cluster struct {
	addr     string // of the coordinator, fixed for the cluster's life
	stateDir string
	http     string // address of its metrics; empty: none
	agent    agentConfig
	verbose  io.Writer // the coordinator's log; nil drops it
	restarts chan coordinatorRestart

	mu    sync.Mutex // guards child
	child *os.Process
}

// coordinatorRestart says that the coordinator ended by itself, or was killed, and serves again.
type coordinatorRestart struct {
	how   string // "killed", "exit status 2"
	after time.Duration
}

// words are the restart's milliseconds and reason in a summary.
func (c coordinatorRestart) words() (ms float64, reason string) {
	return c.after.Seconds() * 1e3, "the coordinator ended (" + c.how + ") and was started again"
}

// Limits of a cluster.
const (
	coordinatorReady = 10 * time.Second       // from start to the first answer
	coordinatorStop  = 2 * time.Second        // from SIGTERM to SIGKILL
	agentStop        = 5 * time.Second        // for the agent to end its workers
	maxFastEnds      = 5                      // coordinators in a row that end within fastEnd
	fastEnd          = 2 * time.Second        //
	restartPause     = 100 * time.Millisecond // between two that end fast
	portTries        = 3
	tailBytes        = 8 << 10 // of the coordinator's standard error
)

// freePort finds a loopback port that nothing uses. It stays below the range that outgoing connections draw
// their ports from: while a killed coordinator is away, a client that redials its port must not become
// connected to itself and hold the port.
func freePort() (int, error) {
	const low, high = 20000, 32000
	var last error
	for range 64 {
		port := low + rand.IntN(high-low)
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			return port, l.Close()
		}
		last = err
	}
	return 0, fmt.Errorf("no free port on 127.0.0.1 between %d and %d: %w", low, high, last)
}

// errPortTaken says that another process took the port between freePort and the coordinator's start.
var errPortTaken = errors.New("port is taken")

// start brings the coordinator up and returns when it answers; run must follow.
// stop ends everything and waits for it.
func startCluster(ctx context.Context, c *cluster) (stop func(), failed <-chan error, err error) {
	for range portTries {
		port, perr := freePort()
		if perr != nil {
			return nil, nil, perr
		}
		c.addr = fmt.Sprintf("127.0.0.1:%d", port)
		stop, failed, err = c.tryStart(ctx)
		if !errors.Is(err, errPortTaken) {
			return stop, failed, err
		}
	}
	return nil, nil, err
}

func (c *cluster) tryStart(ctx context.Context) (stop func(), failed <-chan error, err error) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	fail := make(chan error, 2) // one each, so that nobody blocks
	stop = func() {
		cancel()
		wg.Wait()
	}
	wg.Go(func() {
		if err := c.supervise(ctx); err != nil {
			fail <- err
		}
	})
	cl, err := dial(c.addr)
	if err != nil {
		stop()
		return nil, nil, err
	}
	defer cl.Close()
	ready := make(chan error, 1)
	rctx, rcancel := context.WithTimeout(ctx, coordinatorReady)
	wg.Go(func() { ready <- cl.waitReady(rctx) })
	defer rcancel()
	select {
	case err = <-ready:
		if err != nil {
			err = fmt.Errorf("the coordinator that was started here did not answer within %s", coordinatorReady)
		}
	case err = <-fail:
	}
	if err != nil {
		rcancel()
		stop()
		return nil, nil, err
	}
	c.agent.Coordinator = c.addr
	wg.Go(func() {
		if err := runAgent(ctx, c.agent); err != nil && ctx.Err() == nil {
			fail <- fmt.Errorf("the agent ended: %w", err)
		}
	})
	return stop, fail, nil
}

// kill ends the coordinator as a crash does.
func (c *cluster) kill() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.child == nil {
		return errors.New("the coordinator is not running just now")
	}
	return c.child.Kill()
}

func (c *cluster) setChild(p *os.Process) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.child = p
}

// supervise runs the coordinator, again and again, until ctx ends or it cannot stay up.
func (c *cluster) supervise(ctx context.Context) error {
	// A child with Pdeathsig dies with the thread that started it, so the thread must last as long as we do.
	runtime.LockOSThread()
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	fast := 0
	var ended time.Time
	var how string
	for {
		began := time.Now()
		cmd, tail := c.command(ctx)
		if err := cmd.Start(); err != nil {
			return fmt.Errorf("cannot start a coordinator: %w", err)
		}
		c.setChild(cmd.Process)
		if !ended.IsZero() {
			wg.Go(func() { c.announceBack(ctx, how, ended) })
		}
		err := cmd.Wait()
		c.setChild(nil)
		if ctx.Err() != nil {
			return nil
		}
		first := ended.IsZero()
		ended, how = time.Now(), exitWords(err)
		if fast++; ended.Sub(began) > fastEnd {
			fast = 0
		}
		if text := tail.String(); first && strings.Contains(text, "address already in use") {
			return fmt.Errorf("%w: %s", errPortTaken, lastLine(text))
		} else if first && how != "killed" {
			return fmt.Errorf("the coordinator did not start: %s", lastLine(text))
		}
		if fast >= maxFastEnds {
			return fmt.Errorf("the coordinator ended %d times in a row (%s): %s", fast, how, lastLine(tail.String()))
		}
		if fast > 1 {
			select {
			case <-time.After(restartPause):
			case <-ctx.Done():
				return nil
			}
		}
	}
}

// announceBack reports a restart once the new coordinator answers.
func (c *cluster) announceBack(ctx context.Context, how string, ended time.Time) {
	ctx, cancel := context.WithTimeout(ctx, coordinatorReady)
	defer cancel()
	cl, err := dial(c.addr)
	if err != nil {
		return
	}
	defer cl.Close()
	if cl.waitReady(ctx) != nil {
		return
	}
	select {
	case c.restarts <- coordinatorRestart{how, time.Since(ended)}:
	default:
	}
}

// command is this very program as a coordinator. It shares no terminal signal with us, and dies when we do.
func (c *cluster) command(ctx context.Context) (*exec.Cmd, *tailBuffer) {
	args := []string{"coordinator", "--listen", c.addr, "--state-dir", c.stateDir}
	if c.http != "" {
		args = append(args, "--http", c.http)
	}
	if c.verbose != nil {
		args = append(args, "--log-level", "info")
	}
	cmd := exec.CommandContext(ctx, selfPath(), args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if os.Getenv("GOMAXPROCS") == "" {
		cmd.Env = append(os.Environ(), "GOMAXPROCS=1") // one job's control plane needs no more, and the workers want the cores
	}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = coordinatorStop
	tail := &tailBuffer{}
	cmd.Stderr = tail
	if c.verbose != nil {
		cmd.Stderr = io.MultiWriter(tail, c.verbose)
	}
	return cmd, tail
}

// selfPath is this program, even when its file was replaced or deleted meanwhile.
func selfPath() string {
	if _, err := os.Stat("/proc/self/exe"); err == nil {
		return "/proc/self/exe"
	}
	exe, err := os.Executable()
	if err != nil {
		return os.Args[0]
	}
	return exe
}

// tailBuffer keeps the last bytes that were written to it.
type tailBuffer struct {
	mu sync.Mutex
	b  []byte
}

func (t *tailBuffer) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, p...)
	if over := len(t.b) - tailBytes; over > 0 {
		t.b = append(t.b[:0], t.b[over:]...)
	}
	return len(p), nil
}

func (t *tailBuffer) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(bytes.TrimSpace(t.b))
}

func lastLine(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	if l := strings.TrimPrefix(lines[len(lines)-1], "farandole: "); l != "" {
		return l
	}
	return "it said nothing"
}

// exitWords says how a process ended.
func exitWords(err error) string {
	var x *exec.ExitError
	if errors.As(err, &x) {
		if ws, ok := x.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
			return ws.Signal().String()
		}
	}
	if err == nil {
		return "exit status 0"
	}
	return err.Error()
}

// discardLog is a logger that drops everything.
func discardLog() *slog.Logger { return slog.New(slog.DiscardHandler) }

// newStateDir is dir, or a temporary one that cleanup removes.
func newStateDir(dir string) (path string, cleanup func(), err error) {
	if dir != "" {
		path, err = filepath.Abs(dir)
		return path, func() {}, err
	}
	path, err = os.MkdirTemp("", "farandole-")
	return path, func() { _ = os.RemoveAll(path) }, err
}
