package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The tests here hold the promise: whatever happens to a job's processes, the weights have the SHA-256 of an
// undisturbed run on one worker.

// binaries are built once for all tests.
var binaries = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "farandole-e2e-")
	if err != nil {
		return "", err
	}
	binariesDir = dir
	cmd := exec.Command("go", "build", "-o", dir+"/", "../../cmd/farandole", "../../examples/...")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return dir, nil
})

// binariesDir is where binaries built them; empty before.
var binariesDir string

func removeBinaries() {
	if binariesDir != "" {
		_ = os.RemoveAll(binariesDir)
	}
}

// e2eLimit bounds one run: a hang fails here, with the output at hand.
const e2eLimit = 3 * time.Minute

// gptArgs is a transformer whose steps take some milliseconds.
var gptArgs = []string{"gpt", "--model", "tiny", "--steps", "60", "--shards", "8", "--batch", "96", "--seq", "64"}

type e2e struct {
	testing.TB
	dir string
}

func newE2E(t testing.TB) *e2e {
	if testing.Short() {
		t.Skip("starts processes")
	}
	dir, err := binaries()
	require.NoError(t, err)
	return &e2e{t, dir}
}

type e2eResult struct {
	summary
	code int
	out  string
}

// command is `farandole run FLAGS -- PROGRAM`, which writes its summary to file.
func (e *e2e) command(file string, flags []string, program ...string) (*exec.Cmd, *bytes.Buffer) {
	args := append([]string{"run", "--summary", file}, flags...)
	args = append(args, "--", filepath.Join(e.dir, program[0]))
	args = append(args, program[1:]...)
	cmd := exec.Command(filepath.Join(e.dir, "farandole"), args...)
	out := new(bytes.Buffer)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.WaitDelay = 10 * time.Second
	return cmd, out
}

func (e *e2e) run(flags []string, program ...string) e2eResult {
	e.Helper()
	file := filepath.Join(e.TempDir(), "summary.json")
	cmd, out := e.command(file, flags, program...)
	require.NoError(e, cmd.Start())
	return e.wait(cmd, out, file)
}

func (e *e2e) wait(cmd *exec.Cmd, out *bytes.Buffer, file string) e2eResult {
	e.Helper()
	hung := time.AfterFunc(e2eLimit, func() { _ = cmd.Process.Signal(syscall.SIGKILL) })
	defer hung.Stop()
	err := cmd.Wait()
	r := e2eResult{code: cmd.ProcessState.ExitCode(), out: out.String()}
	if r.code < 0 {
		require.NoError(e, err, "%v\n%s", cmd.Args, r.out)
	}
	if b, err := os.ReadFile(file); err == nil {
		require.NoError(e, json.Unmarshal(b, &r.summary), "%s", b)
	}
	return r
}

// alone is the oracle: the same program on one worker, undisturbed.
func (e *e2e) alone(program ...string) string {
	e.Helper()
	r := e.run([]string{"--workers", "1"}, program...)
	require.Zero(e, r.code, "%s", r.out)
	require.Len(e, r.WeightsSHA256, 64, "%s", r.out)
	return r.WeightsSHA256
}

func TestE2EAnyWorldSizeGivesTheSameWeights(t *testing.T) {
	e := newE2E(t)
	want := e.alone(gptArgs...)
	for _, w := range []int{2, 3, 4, 8} {
		r := e.run([]string{"--workers", strconv.Itoa(w)}, gptArgs...)
		require.Zero(t, r.code, "%s", r.out)
		require.Equal(t, want, r.WeightsSHA256, "%d workers\n%s", w, r.out)
		require.Equal(t, []int{w}, r.WorldSizes)
		require.NotContains(t, r.out, "suspected")
	}
}

// Every path carries the same sums, through a death and a join.
func TestE2EAnyTransportGivesTheSameWeights(t *testing.T) {
	e := newE2E(t)
	want := e.alone(gptArgs...)
	for _, path := range []string{"shm", "uds", "tcp", "grpc"} {
		r := e.run([]string{"--workers", "3", "--transport", path, "--chaos", "kill rank=0 step=20; join step=30"}, gptArgs...)
		require.Zero(t, r.code, "%s", r.out)
		require.Equal(t, want, r.WeightsSHA256, "%s\n%s", path, r.out)
		requireLedger(t, r.summary, 60)
	}
}

// Rounding to bfloat16 is another arithmetic, and as exact: one worker alone rounds what several would send.
func TestE2ERoundedWireGivesTheSameWeights(t *testing.T) {
	e := newE2E(t)
	alone := e.run([]string{"--workers", "1", "--wire", "bf16"}, gptArgs...)
	require.Zero(t, alone.code, "%s", alone.out)
	require.NotEqual(t, e.alone(gptArgs...), alone.WeightsSHA256)
	r := e.run([]string{"--workers", "3", "--wire", "bf16", "--chaos", "kill rank=1 step=20; join step=30"}, gptArgs...)
	require.Zero(t, r.code, "%s", r.out)
	require.Equal(t, alone.WeightsSHA256, r.WeightsSHA256, "%s", r.out)
	requireLedger(t, r.summary, 60)
}

// chaosScripts are what one job must survive with the same weights. Workers: how many it starts with.
var chaosScripts = []struct {
	workers int
	script  string
}{
	{2, "kill rank=0 step=5"},
	{2, "kill rank=1 step=30"},
	{3, "kill rank=1 step=20; join step=30"},
	{3, "kill rank=0 step=10; kill rank=0 step=20"},
	{3, "kill rank=0 step=20; kill rank=1 step=20"},
	{4, "kill rank=3 step=15; kill rank=0 step=16; join step=25 count=2"},
	{4, "kill rank=2 step=10; kill rank=1 step=25; kill rank=0 step=40"},
	{8, "kill rank=7 step=10; kill rank=3 step=20; kill rank=0 step=30"},
	{1, "join step=5 count=2"},
	{1, "join step=5; kill rank=0 step=50"},
	{2, "join step=10; join step=30"},
	{2, "stop rank=1 step=10 for=60s"},
	{3, "stop rank=0 step=10 for=3s; join step=20"},
	{3, "stop rank=2 step=10 for=300ms"},
	{3, "stop rank=1 step=10 for=2s; kill rank=0 step=20"},
	{2, "kill coordinator step=20"},
	{3, "kill coordinator step=10; kill rank=1 step=40"},
	{3, "kill rank=1 step=20; kill coordinator step=20"},
	{3, "kill coordinator step=20; kill coordinator step=40"},
	{3, "kill coordinator step=10; join step=30; kill rank=2 step=50"},
	{3, "stop rank=1 step=10 for=2s; kill coordinator step=10"},
	{4, "kill rank=1 step=15; stop rank=0 step=30 for=3s; join step=40 count=2; kill coordinator step=50"},
	{2, "join step=8 count=6; kill rank=5 step=30; kill rank=1 step=31"},
	{4, "kill rank=3 step=6; kill rank=2 step=8; join step=12 count=6; " + // 4 → 2 → 8 → 3
		"kill rank=7 step=48; kill rank=6 step=49; kill rank=5 step=50; kill rank=4 step=51; kill rank=3 step=52"},
}

func TestE2EChaosGivesTheSameWeights(t *testing.T) {
	e := newE2E(t)
	want := e.alone(gptArgs...)
	for _, tc := range chaosScripts {
		t.Run(fmt.Sprintf("%d %s", tc.workers, tc.script), func(t *testing.T) {
			e := &e2e{t, e.dir}
			// Joins and freezes last about a second: the steps wait for them.
			args := []string{"--workers", strconv.Itoa(tc.workers), "--max", "8", "--settle", "200ms", "--chaos", tc.script}
			r := e.run(args, gptArgs...)
			require.Zero(t, r.code, "%s", r.out)
			require.Equal(t, want, r.WeightsSHA256, "%s", r.out)
			for _, c := range r.Chaos {
				require.True(t, c.Injected, "not injected: %+v\n%s", c, r.out)
			}
			requireLedger(t, r.summary, 60)
		})
	}
}

// requireLedger proves from the summary that every step was committed once.
func requireLedger(t testing.TB, s summary, steps int64) {
	t.Helper()
	next := int64(1)
	for _, term := range s.Ledger {
		require.Equal(t, next, term.First)
		next = term.Last + 1
	}
	require.Equal(t, steps+1, next)
}

func TestE2EPreemptAndResumeWithAnotherWorldSize(t *testing.T) {
	e := newE2E(t)
	want := e.alone(gptArgs...)
	for _, w := range [][2]int{{3, 2}, {1, 4}, {4, 1}} {
		dir, file := filepath.Join(t.TempDir(), "ckpt"), filepath.Join(t.TempDir(), "s.json")
		flags := []string{"--workers", strconv.Itoa(w[0]), "--checkpoint-dir", dir, "--checkpoint-every", "10"}
		cmd, out := e.command(file, flags, gptArgs...)
		require.NoError(t, cmd.Start())
		// The checkpoint of step 30 on disk is what says that step 30 is over.
		commit := filepath.Join(dir, "step-00000030", "COMMIT")
		require.Eventually(t, func() bool { _, err := os.Stat(commit); return err == nil }, e2eLimit, time.Millisecond, "%s", dir)
		require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
		first := e.wait(cmd, out, file)
		require.Equal(t, 143, first.code, "%s", first.out)
		require.Equal(t, "preempted", first.Status)
		require.Less(t, first.Steps, int64(60))

		flags[1] = strconv.Itoa(w[1])
		second := e.run(flags, gptArgs...)
		require.Zero(t, second.code, "%s", second.out)
		require.Equal(t, want, second.WeightsSHA256, "%v\n%s\n%s", w, first.out, second.out)
		require.Contains(t, second.out, fmt.Sprintf("checkpoint of step %d", first.Steps))
	}
}

// TestE2EDaemons: a job on the first agent's two workers doubles when the second agent joins, and halves when that
// agent is killed.
func TestE2EDaemons(t *testing.T) {
	e := newE2E(t)
	args := append([]string{}, gptArgs...)
	for i, a := range args {
		if a == "60" {
			args[i] = "300"
		}
	}
	want := e.alone(args...)
	d := newDaemons(e)
	d.agent("one", 2)
	file := filepath.Join(t.TempDir(), "s.json")
	cmd, out := e.command(file, []string{"--coordinator", d.addr, "--min", "2", "--max", "4", "--settle", "200ms"}, args...)
	lines := newLineWaiter(out)
	cmd.Stdout, cmd.Stderr = lines, lines
	require.NoError(t, cmd.Start())
	lines.waitFor(t, "2 workers, from the start")
	second := d.agent("two", 2)
	lines.waitFor(t, "4 workers on 2 hosts, going on after step")
	require.NoError(t, second.Process.Kill())
	lines.waitFor(t, ": 2 workers, going on after step")
	r := e.wait(cmd, out, file)
	require.Zero(t, r.code, "%s", r.out)
	require.Equal(t, want, r.WeightsSHA256, "%s", r.out)
	require.Subset(t, r.WorldSizes, []int{2, 4})
	requireLedger(t, r.summary, 300)
}

// BenchmarkKill measures what 20 kills of a worker cost: medians of the time until the coordinator knows, and until the
// next step is committed.
func BenchmarkKill(b *testing.B) {
	e := newE2E(b)
	const kills = 20
	script := make([]string, kills)
	for i := range script {
		script[i] = fmt.Sprintf("kill rank=%d step=%d", i%3, (i+1)*120)
	}
	for b.Loop() {
		r := e.run([]string{"--workers", "4", "--max-restarts", strconv.Itoa(kills), "--settle", "200ms", "--chaos", strings.Join(script, ";")},
			"gpt", "--model", "tiny", "--steps", strconv.Itoa((kills+1)*120), "--shards", "8", "--batch", "8", "--seq", "64")
		require.Zero(b, r.code, "%s", r.out)
		var detect, resume []float64
		for _, ev := range r.Events {
			if ev.Kind == "loss" {
				detect, resume = append(detect, ev.DetectMS), append(resume, ev.ResumeMS)
			}
		}
		require.Len(b, detect, kills, "%s", r.out)
		for name, v := range map[string][]float64{"detect": detect, "resume": resume} {
			sort.Float64s(v)
			b.ReportMetric(v[len(v)/2], name+"-median-ms")
			b.ReportMetric(v[len(v)-1], name+"-max-ms")
		}
	}
}
