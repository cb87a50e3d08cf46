package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	pb "github.com/farandole-ml/farandole/coordinator/coordinatorpb"
)

// processLimit is how long anything in these tests may take before it counts as hanging.
const processLimit = 60 * time.Second

// command is this test binary as farandole, with a simulated coordinator and no workers.
type command struct {
	cmd  *exec.Cmd
	out  *waitBuffer
	done chan error
}

// waitBuffer collects output and lets a test wait for a text in it.
type waitBuffer struct {
	mu      sync.Mutex
	b       bytes.Buffer
	changed chan struct{}
}

func (w *waitBuffer) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n, err := w.b.Write(p)
	close(w.changed)
	w.changed = make(chan struct{})
	return n, err
}

func (w *waitBuffer) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.b.String()
}

func (w *waitBuffer) waitFor(t *testing.T, text string) {
	t.Helper()
	limit := time.After(processLimit)
	for {
		w.mu.Lock()
		found, ch := strings.Contains(w.b.String(), text), w.changed
		w.mu.Unlock()
		if found {
			return
		}
		select {
		case <-ch:
		case <-limit:
			t.Fatalf("no %q in:\n%s", text, w)
		}
	}
}

func startCommand(t *testing.T, args ...string) *command {
	t.Helper()
	return startCommandWith(t, []string{"FARANDOLE_TEST_FAKE=1"}, args...)
}

func startCommandWith(t *testing.T, env []string, args ...string) *command {
	t.Helper()
	if testing.Short() {
		t.Skip("starts processes")
	}
	dir := t.TempDir()
	link := filepath.Join(dir, "farandole")
	exe, err := os.Executable()
	require.NoError(t, err)
	require.NoError(t, os.Symlink(exe, link))
	c := &command{cmd: exec.Command(link, args...), out: &waitBuffer{changed: make(chan struct{})}, done: make(chan error, 1)}
	c.cmd.Env = append(append(os.Environ(), "FARANDOLE_TEST_MAIN=1", "TMPDIR="+dir), env...)
	c.cmd.Stdout, c.cmd.Stderr = c.out, c.out
	c.cmd.Dir = dir
	c.cmd.WaitDelay = time.Second
	require.NoError(t, c.cmd.Start())
	go func() { c.done <- c.cmd.Wait() }()
	return c
}

// wait gives the exit code, -1 after a signal.
func (c *command) wait(t *testing.T) int {
	t.Helper()
	select {
	case <-c.done:
		return c.cmd.ProcessState.ExitCode()
	case <-time.After(processLimit):
		c.cmd.Process.Kill()
		t.Fatalf("hangs; it said:\n%s", c.out)
		return 0
	}
}

// children are the processes that the command started and that still run.
func (c *command) children(t *testing.T) []int {
	t.Helper()
	return childrenOf(c.cmd.Process.Pid)
}

func alive(pid int) bool {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	return err == nil && !strings.Contains(string(b), ") Z ")
}

func (c *command) summary(t *testing.T, name string) map[string]any {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(c.cmd.Dir, name))
	require.NoError(t, err)
	var m map[string]any
	require.NoError(t, json.Unmarshal(b, &m))
	return m
}

func TestInterruptCancels(t *testing.T) {
	c := startCommand(t, "run", "--summary", "s.json", "--", "true", "steps=1000000")
	c.out.waitFor(t, "generation 1")
	kids := c.children(t)
	require.Len(t, kids, 1, "the coordinator is a child")
	require.NoError(t, c.cmd.Process.Signal(os.Interrupt))
	require.Equal(t, exitInterrupted, c.wait(t), c.out)
	require.Equal(t, "cancelled", c.summary(t, "s.json")["status"])
	require.False(t, alive(kids[0]), "nothing is left running")
	left, err := filepath.Glob(filepath.Join(c.cmd.Dir, "farandole-*"))
	require.NoError(t, err)
	require.Empty(t, left, "the temporary state is gone")
}

func TestSecondInterruptEndsAtOnce(t *testing.T) {
	c := startCommand(t, "run", "--grace", "1h", "--summary", "s.json", "--", "true", "steps=1000000", "no_cancel")
	c.out.waitFor(t, "generation 1")
	kids := c.children(t)
	require.NoError(t, c.cmd.Process.Signal(os.Interrupt))
	c.out.waitFor(t, "press Ctrl-C again")
	time.Sleep(2 * signalEcho) // a person does not press twice within it
	require.NoError(t, c.cmd.Process.Signal(os.Interrupt))
	require.Equal(t, exitInterrupted, c.wait(t), c.out)
	require.Equal(t, 130.0, c.summary(t, "s.json")["exit_code"])
	require.False(t, alive(kids[0]))
}

func TestTerminateSavesACheckpoint(t *testing.T) {
	c := startCommand(t, "run", "--summary", "s.json", "--", "true", "steps=1000000")
	c.out.waitFor(t, "generation 1")
	require.NoError(t, c.cmd.Process.Signal(syscall.SIGTERM))
	require.Equal(t, exitPreempted, c.wait(t), c.out)
	s := c.summary(t, "s.json")
	require.Equal(t, "preempted", s["status"])
	require.Len(t, s["checkpoints"], 1)
	require.Contains(t, c.out.String(), "saved a checkpoint and stopped")
	require.Contains(t, c.out.String(), "the same command goes on from the checkpoint of step")
}

// A second SIGTERM does not cost the checkpoint: schedulers, and timeout(1), send several.
func TestTerminateTwiceStillSaves(t *testing.T) {
	c := startCommand(t, "run", "--summary", "s.json", "--", "true", "steps=1000000", "step_ms=200")
	c.out.waitFor(t, "generation 1")
	require.NoError(t, c.cmd.Process.Signal(syscall.SIGTERM))
	c.out.waitFor(t, "asking the job for a checkpoint")
	require.NoError(t, c.cmd.Process.Signal(syscall.SIGTERM))
	require.Equal(t, exitPreempted, c.wait(t), c.out)
	require.Equal(t, "preempted", c.summary(t, "s.json")["status"])
}

func TestTerminateIsBoundedByTheGracePeriod(t *testing.T) {
	c := startCommand(t, "run", "--grace", "100ms", "--", "true", "steps=1000000", "no_cancel")
	c.out.waitFor(t, "generation 1")
	require.NoError(t, c.cmd.Process.Signal(syscall.SIGTERM))
	require.Equal(t, exitPreempted, c.wait(t), c.out)
	require.Contains(t, c.out.String(), "was terminated without a checkpoint")
}

// Whatever happens to run, its coordinator does not outlive it.
func TestKillLeavesNothing(t *testing.T) {
	c := startCommand(t, "run", "--", "true", "steps=1000000")
	c.out.waitFor(t, "generation 1")
	kids := c.children(t)
	require.Len(t, kids, 1)
	require.NoError(t, c.cmd.Process.Kill())
	c.wait(t)
	require.Eventually(t, func() bool { return !alive(kids[0]) }, processLimit, time.Millisecond)
}

// A coordinator that cannot stay up ends the run with its reason, not with a loop.
func TestCoordinatorThatKeepsDying(t *testing.T) {
	c := startCommand(t, "run", "--summary", "s.json", "--", "true", "steps=1000000")
	c.out.waitFor(t, "generation 1")
	deadline := time.Now().Add(processLimit)
	for c.cmd.ProcessState == nil && time.Now().Before(deadline) {
		select {
		case <-c.done:
			c.done <- nil
		default:
		}
		for _, pid := range c.children(t) {
			syscall.Kill(pid, syscall.SIGKILL)
		}
		if len(c.done) > 0 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	require.Equal(t, exitFailed, c.wait(t), c.out)
	require.Contains(t, c.out.String(), "the coordinator ended 5 times in a row (killed)")
	require.Equal(t, "failed", c.summary(t, "s.json")["status"])
}

func TestSweepOrphans(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes")
	}
	// A grandchild whose parent ends would be adopted by init; run adopts it instead, and ends it.
	c := startCommand(t, "sweep-test")
	require.Equal(t, 0, c.wait(t), c.out)
	pid, err := strconv.Atoi(strings.TrimSpace(c.out.String()))
	require.NoError(t, err, c.out)
	require.False(t, alive(pid))
}

// sweepTest is a process that leaves a grandchild behind and sweeps it.
func sweepTest() int {
	adoptOrphans()
	out, err := exec.Command("sh", "-c", "sleep 3600 >/dev/null 2>&1 & echo $!").Output()
	if err != nil {
		return 1
	}
	os.Stdout.Write(out)
	if sweepOrphans() != 1 {
		return 2
	}
	return 0
}

func TestDoctorProcess(t *testing.T) {
	c := startCommand(t, "doctor", "-o", "json")
	c.wait(t)
	var fs []finding
	dec := json.NewDecoder(strings.NewReader(c.out.String()))
	require.NoError(t, dec.Decode(&fs), c.out)
	require.Greater(t, len(fs), 8)
	for _, f := range fs {
		require.Contains(t, []string{verdictOK, verdictWarn, verdictFail}, f.Verdict)
		require.Equal(t, f.Verdict == verdictOK, f.Todo == "", "what is not fine says what to do: %+v", f)
	}
}

// An agent that knows only the gossip address and the key finds the coordinator, also when it comes back elsewhere.
func TestAgentFindsTheCoordinatorByGossip(t *testing.T) {
	dir := t.TempDir()
	key, state := filepath.Join(dir, "gossip.key"), filepath.Join(dir, "state")
	coordinator := func(gossip string) (c *command, addr, join string) {
		c = startCommandWith(t, nil, "coordinator", "--state-dir", state, "--listen", "127.0.0.1:0", "--gossip", gossip, "--gossip-key-file", key)
		c.out.waitFor(t, "--gossip-key-file")
		m := regexp.MustCompile(`serves (\S+), .* --join (\S+) `).FindStringSubmatch(c.out.String())
		require.NotNil(t, m, c.out)
		return c, m[1], m[2]
	}
	slots := func(addr string) {
		t.Helper()
		require.Eventually(t, func() bool { // Scale is refused while no agent is attached
			return withClient(addr, func(c *client) error {
				job, err := submitJob(t.Context(), c, &pb.JobSpec{Command: []string{"/bin/true"}})
				if err != nil {
					return err
				}
				_, err = c.Scale(t.Context(), &pb.ScaleRequest{Job: job, Add: 1})
				return err
			}) == nil
		}, processLimit, 20*time.Millisecond)
	}
	c, addr, join := coordinator("127.0.0.1:0")
	a := startCommandWith(t, nil, "agent", "--join", join, "--gossip-key-file", key, "--slots", "1")
	slots(addr)
	require.NoError(t, c.cmd.Process.Kill())
	c.wait(t)
	c, again, _ := coordinator(join)
	require.NotEqual(t, addr, again)
	slots(again)
	require.NoError(t, a.cmd.Process.Signal(os.Interrupt))
	require.Equal(t, 0, a.wait(t), a.out)
	require.NoError(t, c.cmd.Process.Signal(os.Interrupt))
	require.Equal(t, 0, c.wait(t), c.out)
}
