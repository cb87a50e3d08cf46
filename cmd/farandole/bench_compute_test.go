package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/farandole-ml/farandole/kernels"
)

// TestE2EBenchEndsWithinAnOperation interrupts a product that takes plain Go minutes.
func TestE2EBenchEndsWithinAnOperation(t *testing.T) {
	e := newE2E(t)
	var out bytes.Buffer
	cmd := exec.Command(filepath.Join(e.dir, "farandole"), "bench", "gemm", "-m", "4096", "-n", "4096", "-k", "4096", "--isa", "go", "--threads", "1")
	cmd.Stdout, cmd.Stderr = &out, &out
	require.NoError(t, cmd.Start())
	hung := time.AfterFunc(e2eLimit, func() { _ = cmd.Process.Kill() })
	defer hung.Stop()
	require.Eventually(t, func() bool { return ticks(t, cmd.Process.Pid) > 200 }, e2eLimit, 10*time.Millisecond, "it computes")
	require.NoError(t, cmd.Process.Signal(syscall.SIGINT))
	require.Error(t, cmd.Wait())
	require.Equal(t, exitInterrupted, cmd.ProcessState.ExitCode())
	require.Equal(t, "farandole: interrupted\n", out.String())
}

// ticks is the processor time that a process has used, in hundredths of a second.
func ticks(t *testing.T, pid int) int {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	require.NoError(t, err)
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	user, err := strconv.Atoi(fields[11])
	require.NoError(t, err)
	return user
}

func TestBenchRefusesWhatDoesNotFit(t *testing.T) {
	e := newE2E(t)
	if kernels.CheckRoom(64<<30) == nil {
		t.Skip("this machine has room for all that a bench may be asked for")
	}
	for _, args := range [][]string{
		{"gemm", "-m", "65536", "-n", "65536", "-k", "65536"},
		{"step", "--model", "tiny", "--batch", "1048576", "--seq", "64"},
	} {
		out, err := exec.Command(filepath.Join(e.dir, "farandole"), append([]string{"bench"}, args...)...).CombinedOutput()
		var exit *exec.ExitError
		require.ErrorAs(t, err, &exit, "%v", args)
		require.Equal(t, exitUsage, exit.ExitCode(), "%s", out)
		require.Regexp(t, `^farandole: .* GiB of memory are wanted, and this machine has .* GiB left: make the model, the batch or the shape smaller\n$`, string(out))
	}
}
