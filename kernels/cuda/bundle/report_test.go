package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// script writes a shell script that stands for a program of the bundle.
func script(t *testing.T, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	require.NoError(t, os.WriteFile(path, []byte("#!/bin/bash\n"+text), 0o755))
	return path
}

// testRunner is a runner in folders of its own.
func testRunner(t *testing.T, limit time.Duration) *runner {
	t.Helper()
	o := options{bundle: t.TempDir(), programs: t.TempDir(), out: t.TempDir(), limit: limit}
	require.NoError(t, os.WriteFile(filepath.Join(o.bundle, "VERSION"), []byte("commit x\n"), 0o644))
	r, err := newRunner(o, new(strings.Builder))
	require.NoError(t, err)
	return r
}

// written is the report on disk.
func written(t *testing.T, dir string) *report {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, jsonFile))
	require.NoError(t, err)
	r := new(report)
	require.NoError(t, json.Unmarshal(data, r))
	return r
}

func shell(text string) func(context.Context, *bench, *report) result {
	return func(ctx context.Context, b *bench, _ *report) result {
		if e := b.run(ctx, timeLeft(ctx), "bash", "-c", text); e.err != nil {
			return fail(e, "%v", e.err)
		}
		return pass("done")
	}
}

func partOf(t *testing.T, r *report, name string) result {
	t.Helper()
	for _, p := range r.Parts {
		if p.Name == name {
			return p
		}
	}
	require.Fail(t, "no part "+name)
	return result{}
}

// TestNoPartStopsAnother: one fails, one hangs and leaves a process behind, one finds no time left.
func TestNoPartStopsAnother(t *testing.T) {
	r := testRunner(t, time.Hour)
	left := filepath.Join(t.TempDir(), "pid")
	r.runAll(t.Context(), []part{
		{name: "fails", limit: time.Minute, do: shell("for i in $(seq 30); do echo line $i; done; exit 3")},
		{name: "hangs", limit: time.Second, do: shell("trap '' INT; setsid sleep 1000 & echo $! > " + left + "; while :; do sleep 1000; done")},
		{name: "large", limit: time.Minute, least: 2 * time.Hour, do: shell("exit 1")},
		{name: "passes", limit: time.Minute, do: shell("echo fine")},
		{name: "kills itself", limit: time.Minute, do: shell("kill -9 $$")},
	})
	require.Equal(t, exitFailed, r.finish(t.Context()))
	got := written(t, r.out)
	require.Equal(t, exitFailed, got.ExitCode)
	fails := partOf(t, got, "fails")
	require.Equal(t, failed, fails.Verdict)
	require.Len(t, fails.Failures[0].Lines, lastLines)
	require.Equal(t, "line 30", fails.Failures[0].Lines[lastLines-1])
	hangs := partOf(t, got, "hangs")
	require.Equal(t, failed, hangs.Verdict)
	require.Contains(t, hangs.Note, "did not end within 1s")
	require.Equal(t, notRun, partOf(t, got, "large").Verdict)
	require.Equal(t, passed, partOf(t, got, "passes").Verdict)
	require.Equal(t, failed, partOf(t, got, "kills itself").Verdict)
	text, err := os.ReadFile(filepath.Join(r.out, markdownFile))
	require.NoError(t, err)
	require.Contains(t, string(text), "line 30")

	pid, err := os.ReadFile(left)
	require.NoError(t, err)
	_, err = os.Stat("/proc/" + strings.TrimSpace(string(pid)))
	require.ErrorIs(t, err, os.ErrNotExist, "what a part leaves behind is ended")
}

// TestInterrupt ends the part that runs, and tells of the rest.
func TestInterrupt(t *testing.T) {
	r := testRunner(t, time.Hour)
	ctx, cancel := context.WithCancel(t.Context())
	r.runAll(ctx, []part{
		{name: "first", limit: time.Minute, do: shell("true")},
		{name: "interrupted", limit: time.Minute, do: func(ctx context.Context, b *bench, r *report) result {
			cancel()
			return shell("sleep 1000")(ctx, b, r)
		}},
		{name: "last", limit: time.Minute, do: shell("true")},
	})
	require.Equal(t, exitInterrupted, r.finish(ctx))
	got := written(t, r.out)
	require.True(t, got.Interrupted)
	require.Equal(t, passed, partOf(t, got, "first").Verdict)
	require.Equal(t, notRun, partOf(t, got, "interrupted").Verdict)
	require.Equal(t, notRun, partOf(t, got, "last").Verdict)
}

// TestTimeOfAllEnds: what runs then failed for want of time, the rest did not run.
func TestTimeOfAllEnds(t *testing.T) {
	r := testRunner(t, reserve+500*time.Millisecond)
	r.runAll(t.Context(), []part{
		{name: "long", limit: time.Minute, do: shell("sleep 1000")},
		{name: "last", limit: time.Minute, do: shell("true")},
	})
	require.Equal(t, exitFailed, r.finish(t.Context()))
	got := written(t, r.out)
	require.Contains(t, partOf(t, got, "long").Note, "the whole run's time ended")
	require.Equal(t, notRun, partOf(t, got, "last").Verdict)
}

func TestExitCodes(t *testing.T) {
	for _, c := range []struct {
		verdicts []string
		noGPU    string
		want     int
	}{
		{[]string{passed, empty}, "", exitPassed},
		{[]string{passed, notRun}, "", exitUnfinished},
		{[]string{notRun, failed}, "", exitFailed},
		{[]string{passed, noGPU}, "no driver", exitNoGPU},
		{[]string{failed, noGPU}, "no driver", exitFailed},
	} {
		r := newReport("v", options{}, time.Now())
		r.NoGPU = c.noGPU
		for _, v := range c.verdicts {
			r.Parts = append(r.Parts, result{Verdict: v})
		}
		require.Equal(t, c.want, r.finish(false, 0), "%v", c)
	}
}

// A stand-in for a test program: TestB panics, C/two fails after it, TestD ends the process without a word.
const fakeTests = `
run=; skip=
while (($#)); do case $1 in -test.run) run=$2;; -test.skip) skip=$2;; esac; shift; done
echo "run $run skip $skip" >> "$0.calls"
left() { [[ $1 =~ $run || $run == "^$1\$"* ]] && ! [[ "|$skip|" == *"|^$1\$|"* ]]; }
left TestA && printf '=== RUN   TestA\n--- PASS: TestA (0.00s)\n'
left TestB && { printf '=== RUN   TestB\n--- FAIL: TestB (0.00s)\npanic: b\n'; exit 2; }
left TestC && { printf '=== RUN   TestC\n=== RUN   TestC/one\n=== RUN   TestC/two\n    c_test.go:1: wrong bits\n--- FAIL: TestC (0.1s)\n    --- PASS: TestC/one (0.00s)\n    --- FAIL: TestC/two (0.00s)\n'; bad=1; }
left TestD && { printf '=== RUN   TestD\n'; kill -9 $$; }
left TestE && printf '=== RUN   TestE\n    e_test.go:3: needs the emulator\n--- SKIP: TestE (0.00s)\n'
exit ${bad:-0}
`

func testBench(t *testing.T) *bench {
	t.Helper()
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	require.NoError(t, err)
	t.Cleanup(func() { _ = log.Close() })
	return &bench{log: log}
}

// TestNoTestHidesAnother: tests that end their process are left out, the rest goes on, and what failed runs alone.
func TestNoTestHidesAnother(t *testing.T) {
	program := script(t, t.TempDir(), "fake.test", fakeTests)
	b := testBench(t)
	all, failures := b.tests(t.Context(), []string{"TestA", "TestB", "TestC", "TestD", "TestE", "TestMissing"}, program)
	require.Equal(t, testPassed, all["TestA"])
	require.Equal(t, testFailed, all["TestB"])
	require.Equal(t, testPassed, all["TestC/one"])
	require.Equal(t, testFailed, all["TestC/two"])
	require.Equal(t, testBegun, all["TestD"])
	require.Equal(t, testSkipped, all["TestE"])
	var what []string
	for _, f := range failures {
		what = append(what, f.What)
	}
	require.Equal(t, []string{"TestMissing did not run", "TestB", "TestC/two", "TestD did not end"}, what)
	require.Contains(t, failures[1].Lines, "panic: b")
	require.Contains(t, failures[2].Lines, "    c_test.go:1: wrong bits")
	calls, err := os.ReadFile(program + ".calls")
	require.NoError(t, err)
	require.Contains(t, string(calls), `run ^TestC$/^two$ skip`)
	require.Equal(t, "2 passed, 3 failed, 1 skipped: "+failing(failures...).Note, testResult(all, failures).Note)
}

const fakeBenchmarks = `
case "$*" in *GELU*GELU*) echo "BenchmarkMemory/GELU-16 	 5 	 2.5 us 	 3000 GB/s"; echo PASS; exit 0;; esac
echo 'BenchmarkCopy/device-16         	       7	      3100.5 GB/s	         692.0 us'
echo '--- FAIL: BenchmarkMemory/GELU-16'
echo '    bench_test.go:9: lost'
echo 'BenchmarkMemory/Add-16 	 5 	 1.5 us 	 2000 GB/s'
echo '--- FAIL: BenchmarkMemory'
exit 1
`

// TestFigures: a benchmark that fails takes no other's figures along, and is tried alone.
func TestFigures(t *testing.T) {
	b := testBench(t)
	r := newReport("v", options{}, time.Now())
	program := script(t, t.TempDir(), "fake.test", strings.ReplaceAll(fakeBenchmarks, "*GELU*GELU*", "*Memory*GELU*"))
	res := b.figures(t.Context(), r, "f32", program, "-test.bench", ".")
	require.Equal(t, failed, res.Verdict)
	require.Equal(t, "BenchmarkMemory/GELU; alone it passes", res.Note)
	require.Equal(t, map[string]map[string]float64{
		"f32 Copy/device": {"GB/s": 3100.5, "us": 692}, "f32 Memory/Add": {"GB/s": 2000, "us": 1.5}, "f32 Memory/GELU": {"GB/s": 3000, "us": 2.5},
	}, r.Figures)

	skips := script(t, t.TempDir(), "fake.test", "echo '--- SKIP: BenchmarkProduct'; echo '    bench_test.go:75: no products in bf16: too old'; echo PASS")
	require.Equal(t, failed, b.figures(t.Context(), r, "bf16", skips).Verdict, "a benchmark that measures nothing is none")
}

func TestBars(t *testing.T) {
	r := newReport("v", options{}, time.Now())
	verdict := func(part string) string {
		for _, b := range r.bars() {
			if strings.Contains(b.Bar, part) {
				return b.Verdict + " " + b.Figure
			}
		}
		return "none"
	}
	require.Equal(t, "empty ", verdict("600000 tokens/s"))
	require.Equal(t, "empty ", verdict("suite"))
	require.Equal(t, "empty ", verdict("memory-bound"))
	r.Parts = []result{{Name: "suite", Verdict: failed, Note: "2 passed, 1 failed"}, {Name: "hashes", Verdict: passed, Note: "all"}}
	large := batch{32, 1024}
	r.Figures = map[string]map[string]float64{
		stepName("bf16", large):        {"tokens/s": 599_999, "ms": 55},
		torchName("bf16", true, large): {"tokens/s": 500_000},
		"f32 Copy/device":              {"GB/s": 3000}, "f32 Memory/GELU": {"GB/s": 2400}, "f32 Memory/Scale": {"GB/s": 2399},
		"bf16 Product/qkv/forward": {"TFLOP/s": 300}, "bf16 Product/fc/input": {"TFLOP/s": 400}, "bf16 Attention/forward": {"TFLOP/s": 199},
		"f32 Memory/TreeAddition": {"us": 100, "GB/s": 2900},
	}
	require.Equal(t, "miss 599999 tokens/s", verdict("600000 tokens/s"))
	require.Equal(t, "pass 1.20 times", verdict("PyTorch"))
	require.Equal(t, "pass 0.80 of it", verdict("GELU"))
	require.Equal(t, "miss 0.80 of it", verdict("Scale"))
	require.Equal(t, "miss 0.50 of it", verdict("bf16 forward"))
	require.Equal(t, "empty ", verdict("bf16 backward"))
	require.Equal(t, "pass 1.3 %", verdict("additions"))
	require.Equal(t, "fail 2 passed, 1 failed", verdict("suite"))
	require.Equal(t, "pass all", verdict("kernel by kernel"))
	require.Equal(t, "empty ", verdict("CUDA IPC"))
	r.Parts = append(r.Parts, result{Name: "training", Verdict: passed, Note: "the CPU's weights, gradients reduced by way of the host, at least at times"})
	require.Equal(t, "pass the CPU's weights, gradients reduced by way of the host, at least at times", verdict("two processes on one GPU"))
	require.Equal(t, "miss the CPU's weights, gradients reduced by way of the host, at least at times", verdict("CUDA IPC"))
	r.Parts[2].Note = "the CPU's weights, gradients reduced " + inGPUMemory
	require.Equal(t, "pass the CPU's weights, gradients reduced in the GPU's memory", verdict("CUDA IPC"))
	r.Emulated = true
	require.Equal(t, "empty emulated", verdict("600000 tokens/s"))
	require.Equal(t, "empty emulated: all", verdict("kernel by kernel"))
	require.Equal(t, "fail 2 passed, 1 failed", verdict("suite"), "a failure is one on any driver")
}

func TestReadAssembly(t *testing.T) {
	kernels, spilling := readAssembly("ptxas info    : Compiling entry function 'add' for 'sm_90'\n    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n" +
		"ptxas info    : Compiling entry function 'gelu' for 'sm_90'\n    8 bytes stack frame, 8 bytes spill stores, 4 bytes spill loads\n")
	require.Equal(t, 2, kernels)
	require.Equal(t, []string{"gelu (12 bytes)"}, spilling)
}

func TestOneRunAtATime(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	unlock, err := lock(path)
	require.NoError(t, err)
	_, err = lock(path)
	require.ErrorIs(t, err, syscall.EWOULDBLOCK)
	unlock()
	unlock, err = lock(path)
	require.NoError(t, err)
	unlock()
}

// TestPlan: a log has its part's name, and no part can take longer than the default for all.
func TestPlan(t *testing.T) {
	seen := map[string]bool{}
	for _, p := range plan(options{}) {
		require.False(t, seen[p.name], p.name)
		seen[p.name] = true
		require.Less(t, p.least, p.limit, p.name)
		require.Less(t, p.limit, defaultLimit, p.name)
	}
	for _, name := range []string{"suite", "hashes", "training"} {
		require.True(t, seen[name], fmt.Sprintf("a bar asks for %s", name))
	}
}
