package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// benchOnAgents is `farandole bench ARGS` on the agents of d.
func benchOnAgents(d *daemons, args ...string) (cmd *exec.Cmd, out, errs *lineWaiter) {
	cmd = exec.Command(filepath.Join(d.e.dir, "farandole"), append(append([]string{"bench"}, args...), "--coordinator", d.addr)...)
	out, errs = newLineWaiter(new(bytes.Buffer)), newLineWaiter(new(bytes.Buffer))
	cmd.Stdout, cmd.Stderr = out, errs
	cmd.WaitDelay = 10 * time.Second
	return cmd, out, errs
}

func (l *lineWaiter) said() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func endedWithin(t *testing.T, cmd *exec.Cmd) int {
	t.Helper()
	hung := time.AfterFunc(e2eLimit, func() { _ = cmd.Process.Kill() })
	defer hung.Stop()
	_ = cmd.Wait()
	return cmd.ProcessState.ExitCode()
}

// TestE2EBenchOnAgents: ranks on two agents' hosts, as a job that comes and goes.
func TestE2EBenchOnAgents(t *testing.T) {
	e := newE2E(t)
	d := newDaemons(e)
	agents := []*exec.Cmd{d.agent("one", 2), d.agent("two", 2)}

	cmd, out, errs := benchOnAgents(d, "all_reduce", "-n", "4", "-b", "1K", "-e", "256K", "-f", "16", "--iters", "3", "-o", "json")
	require.NoError(t, cmd.Start())
	require.Zero(t, endedWithin(t, cmd), errs.said())
	var rep benchReport
	require.NoError(t, json.Unmarshal([]byte(out.said()), &rep), out.said())
	requireRight(t, rep)
	require.Len(t, rep.Rows, 6)
	require.Empty(t, errs.said())

	// What cannot reach between hosts says so.
	cmd, _, errs = benchOnAgents(d, "all_reduce", "-n", "4", "-b", "1K", "-e", "1K", "--transport", "uds")
	require.NoError(t, cmd.Start())
	require.Equal(t, exitFailed, endedWithin(t, cmd), errs.said())
	require.Contains(t, errs.said(), "uds reaches ranks on one host alone, and these are on one, two: use --transport tcp")

	// A rank that dies ends the benchmark and is named.
	cmd, out, errs = benchOnAgents(d, "all_reduce", "-n", "4", "-b", "1M", "-e", "1M", "--iters", "1000000")
	require.NoError(t, cmd.Start())
	out.waitFor(t, "algorithm")
	var ranks []int
	require.Eventually(t, func() bool {
		ranks = childrenOf(agents[1].Process.Pid)
		return len(ranks) == 2 && jobStatus(t, d) == "running"
	}, e2eLimit, time.Millisecond)
	require.NoError(t, syscall.Kill(ranks[0], syscall.SIGKILL))
	require.Equal(t, exitFailed, endedWithin(t, cmd), errs.said())
	require.Regexp(t, `rank [23] on host two`, errs.said())
	noneLeft(t, agents)

	// An interrupt leaves nothing running.
	cmd, out, errs = benchOnAgents(d, "all_reduce", "-n", "4", "-b", "1M", "-e", "1M", "--iters", "1000000")
	require.NoError(t, cmd.Start())
	out.waitFor(t, "algorithm")
	require.Eventually(t, func() bool { return jobStatus(t, d) == "running" }, e2eLimit, time.Millisecond)
	require.NoError(t, cmd.Process.Signal(os.Interrupt))
	require.Equal(t, exitInterrupted, endedWithin(t, cmd), errs.said())
	noneLeft(t, agents)

	// More ranks than slots: it says what it waits for.
	cmd, _, errs = benchOnAgents(d, "all_reduce", "-n", "5", "-b", "1K", "-e", "1K")
	require.NoError(t, cmd.Start())
	errs.waitFor(t, "4 of 5 have a slot")
	require.NoError(t, cmd.Process.Signal(os.Interrupt))
	require.Equal(t, exitInterrupted, endedWithin(t, cmd), errs.said())
}

// jobStatus is the newest job's.
func jobStatus(t *testing.T, d *daemons) string {
	t.Helper()
	jobs, err := jobsOf(t.Context(), d.addr, "")
	require.NoError(t, err)
	if len(jobs) == 0 {
		return ""
	}
	return jobs[len(jobs)-1].Status
}

// noneLeft wants the agents without workers, soon.
func noneLeft(t *testing.T, agents []*exec.Cmd) {
	t.Helper()
	for _, a := range agents {
		require.Eventually(t, func() bool { return len(childrenOf(a.Process.Pid)) == 0 }, e2eLimit, time.Millisecond)
	}
}
