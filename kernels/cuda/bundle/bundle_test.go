package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The folder that `make gpu-bundle` made, and the folder of the driver that computes on the CPU: `make test-gpu-bundle` gives them.
var (
	bundleDir   = flag.String("bundle", "", "test this folder of make gpu-bundle")
	emulatorDir = flag.String("emulator", "", "folder of the driver for tests")
)

// bundleLimit bounds one run: a hang fails here.
const bundleLimit = 5 * time.Minute

// copied is the bundle in an empty folder, as on another machine.
func copied(t *testing.T) string {
	t.Helper()
	if *bundleDir == "" {
		t.Skip("-bundle names no folder: make test-gpu-bundle does")
	}
	dir := filepath.Join(t.TempDir(), "copy")
	require.NoError(t, os.CopyFS(dir, os.DirFS(*bundleDir)))
	require.NoError(t, os.Chmod(filepath.Join(dir, "run.sh"), 0o755))
	return dir
}

// bundleRun is run.sh in a copy, with settings for the driver.
func bundleRun(t *testing.T, dir, out string, driver bool, settings ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(filepath.Join(dir, "run.sh"), "-tiny", out)
	cmd.Dir = t.TempDir()
	cmd.Env = append([]string{"PATH=/usr/bin:/bin", "TMPDIR=" + t.TempDir()}, settings...)
	if driver {
		cmd.Env = append(cmd.Env, "LD_LIBRARY_PATH="+*emulatorDir)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	hung := time.AfterFunc(bundleLimit, func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
	t.Cleanup(func() { hung.Stop() })
	return cmd
}

func bundleReport(t *testing.T, dir string, driver bool, settings ...string) (*report, int) {
	t.Helper()
	out := filepath.Join(t.TempDir(), "out")
	cmd := bundleRun(t, dir, out, driver, settings...)
	text, err := cmd.CombinedOutput()
	require.FileExists(t, filepath.Join(out, jsonFile), "%v: %s", err, text)
	r := written(t, out)
	require.Equal(t, r.ExitCode, cmd.ProcessState.ExitCode(), "%s", text)
	for _, kv := range cmd.Env {
		if tmp, ok := strings.CutPrefix(kv, "TMPDIR="); ok {
			left, err := filepath.Glob(tmp + "/*")
			require.NoError(t, err)
			require.Equal(t, []string{filepath.Join(tmp, "farandole-gpu-report.lock")}, left, "the run cleans up")
		}
	}
	return r, r.ExitCode
}

func TestBundleOnTheEmulator(t *testing.T) {
	r, code := bundleReport(t, copied(t), true)
	require.Zero(t, code, "%s", r.markdown())
	require.True(t, r.Emulated)
	require.Contains(t, r.Version, "commit ")
	for _, p := range r.Parts {
		require.Contains(t, []string{passed, empty}, p.Verdict, "%s: %s", p.Name, p.Note)
	}
	for _, name := range []string{"open", "hashes", "training", "suite", "memory", "step-f32-b4", "step-f32-b32", "products-f32", "attention-f32", "launch-and-transfer"} {
		require.Equal(t, passed, partOf(t, r, name).Verdict, "%s: %s", name, partOf(t, r, name).Note)
	}
	require.Contains(t, partOf(t, r, "training").Note, "gradients reduced in the GPU's memory")
	for _, name := range []string{"f32 Copy/device", "f32 Memory/AdamW", "f32 Product/head/weight", "f32 Attention/backward", "f32 Launch/host", "f32 Transfer/upload"} {
		require.NotEmpty(t, r.Figures[name], name)
	}
	for _, b := range r.Bars {
		require.Equal(t, empty, b.Verdict, "a bar on the emulator: %s", b.Bar)
	}
}

// TestBundleWithALaunchThatFails: every process's 40th launch fails. Some parts have fewer.
func TestBundleWithALaunchThatFails(t *testing.T) {
	r, code := bundleReport(t, copied(t), true, "FARANDOLE_EMULATOR_FAIL=0:40")
	require.Equal(t, exitFailed, code)
	require.Equal(t, passed, partOf(t, r, "open").Verdict)
	p := partOf(t, r, "hashes")
	require.Equal(t, failed, p.Verdict)
	var lines []string
	for _, f := range p.Failures {
		lines = append(lines, f.What)
		lines = append(lines, f.Lines...)
	}
	require.Contains(t, strings.Join(lines, "\n"), "unspecified launch failure (CUDA error 719)")
	require.Contains(t, strings.Join(lines, "\n"), "alone it passes", "the later operations were not at fault")
	require.Equal(t, failed, partOf(t, r, "training").Verdict)
	for _, p := range r.Parts {
		require.NotEqual(t, notRun, p.Verdict, p.Name)
	}
	require.Contains(t, r.markdown(), "CUDA error 719")
}

// TestBundleWithAWrongHash: the report names the operation.
func TestBundleWithAWrongHash(t *testing.T) {
	dir := copied(t)
	for name, key := range map[string]string{hashesFile: "kernel/GELU", weightsFile: strings.Join(sizesOf(options{tiny: true}).training, " ")} {
		data, err := os.ReadFile(filepath.Join(dir, name))
		require.NoError(t, err)
		all := map[string]string{}
		require.NoError(t, json.Unmarshal(data, &all))
		require.NotEmpty(t, all[key], key)
		all[key] = strings.Repeat("0", 64)
		data, err = json.Marshal(all)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), data, 0o644))
	}
	r, code := bundleReport(t, dir, true)
	require.Equal(t, exitFailed, code)
	p := partOf(t, r, "hashes")
	require.Equal(t, failed, p.Verdict)
	require.Len(t, p.Failures, 1)
	require.Equal(t, "TestHashes/kernel/GELU", p.Failures[0].What)
	require.Len(t, partOf(t, r, "training").Failures, 4, "GPU with a kill, the same by way of the host, GPU alone, and the CPU")
	require.Equal(t, passed, partOf(t, r, "suite").Verdict, "the rest is as it was")
}

func TestBundleWithoutAGPU(t *testing.T) {
	if _, err := exec.LookPath("nvidia-smi"); err == nil {
		t.Skip("this machine has one")
	}
	began := time.Now()
	r, code := bundleReport(t, copied(t), false)
	t.Logf("without a GPU it took %v", time.Since(began).Round(time.Millisecond))
	require.Equal(t, exitNoGPU, code, "%s", r.markdown())
	require.NotEmpty(t, r.NoGPU)
	for _, name := range []string{"open", "hashes", "training", "suite", "memory", "step-f32-b32", "pytorch-compile"} {
		require.Equal(t, noGPU, partOf(t, r, name).Verdict, name)
	}
}

// TestBundleInterrupted: nothing runs afterwards, and a second run begins anew in the same folder.
func TestBundleInterrupted(t *testing.T) {
	dir, out := copied(t), filepath.Join(t.TempDir(), "out")
	cmd := bundleRun(t, dir, out, true)
	text := new(bytes.Buffer)
	cmd.Stdout, cmd.Stderr = text, text
	require.NoError(t, cmd.Start())
	require.Eventually(t, func() bool {
		return exists(filepath.Join(out, logFolder, "training.log.json")) || exists(filepath.Join(out, logFolder, "training.log"))
	},
		bundleLimit, time.Millisecond)
	require.NoError(t, syscall.Kill(-cmd.Process.Pid, syscall.SIGINT))
	_ = cmd.Wait()
	require.Equal(t, exitInterrupted, cmd.ProcessState.ExitCode(), "%s", text)
	r := written(t, out)
	require.True(t, r.Interrupted)
	require.Equal(t, passed, partOf(t, r, "hashes").Verdict)
	require.Equal(t, notRun, partOf(t, r, "suite").Verdict)
	left, err := exec.Command("pgrep", "-f", out).CombinedOutput()
	require.Error(t, err, "%s still run", left)

	again := bundleRun(t, dir, out, false)
	_ = again.Run()
	require.Equal(t, exitNoGPU, again.ProcessState.ExitCode())
	require.False(t, written(t, out).Interrupted)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
