package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/farandole-ml/farandole/collective"
)

// benchJSON runs bench and gives its report.
func benchJSON(t *testing.T, args ...string) benchReport {
	t.Helper()
	c := startCommand(t, append([]string{"bench"}, append(args, "-o", "json")...)...)
	require.Equal(t, 0, c.wait(t), "%v: %s", args, c.out)
	var rep benchReport
	require.NoError(t, json.Unmarshal([]byte(c.out.String()), &rep), c.out)
	requireRight(t, rep, args...)
	return rep
}

// requireRight wants rows, times, and no wrong element.
func requireRight(t *testing.T, rep benchReport, args ...string) {
	t.Helper()
	require.NotEmpty(t, rep.Rows, args)
	for _, r := range rep.Rows {
		require.Positive(t, r.TimeUS, args)
		if rep.Op != "barrier" {
			require.NotNil(t, r.Wrong, args)
			require.Zero(t, *r.Wrong, args)
		}
	}
}

// Every operation on every transport, between processes where the transport can, at lengths that ranks do not divide.
func TestBenchEveryOperation(t *testing.T) {
	for _, tr := range benchTransports {
		if tr.ready != nil && tr.ready() != nil {
			continue // only a build with -tags fabric has it
		}
		for _, op := range benchOps {
			t.Run(tr.name+" "+op.name, func(t *testing.T) {
				args := []string{op.name, "-n", "3", "--transport", tr.name, "--iters", "2", "--warmup", "1"}
				if op.kind == collective.OpBarrier {
					require.Len(t, benchJSON(t, args...).Rows, 1)
					return
				}
				if op.rooted {
					args = append(args, "--root", "2")
				}
				rep := benchJSON(t, append(args, "-b", "4", "-e", "100K", "-f", "160")...)
				require.Equal(t, tr.name, rep.Transport)
				require.Len(t, rep.Rows, 3*len(op.places("both")), "4 or 12 bytes, 640, 100K")
			})
		}
	}
}

// Every type and reduction, in memory of this process.
func TestBenchEveryType(t *testing.T) {
	for _, typ := range allTypes {
		for _, red := range allRedops {
			for _, op := range []string{"all_reduce", "reduce_scatter", "reduce"} {
				benchJSON(t, op, "-n", "3", "--transport", "inproc", "--dtype", typ.String(), "--redop", red.String(), "-b", "24", "-e", "24K", "-f", "1000", "--iters", "1", "--warmup", "1")
			}
		}
	}
}

func TestBenchTreeOrder(t *testing.T) {
	rep := benchJSON(t, "all_reduce", "-n", "3", "-b", "8", "-e", "64K", "-f", "64", "--iters", "3", "--algorithm", "tree", "--shards", "8", "--checksum")
	require.Equal(t, 8, rep.Shards)
	require.Equal(t, "tree", rep.Rows[0].Algorithm)
}

// A rank whose result is wrong is counted: here the ranks expect what three ranks give and only two take part.
func TestBenchCountsWrongElements(t *testing.T) {
	op := benchOpNamed(t, "all_reduce")
	b := &benchBuffers{cell: benchCell{Place: inPlace}, op: op, pattern: benchPattern{typ: collective.Int32, parts: 3}, world: 3, size: 4, count: 1000}
	b.lay(func(n int) []byte { return make([]byte, n) })
	b.fill(1)
	require.Greater(t, b.wrong(1), int64(990), "the input is not the result")
	copy(b.out, b.pattern.result(1, 0, 3))
	require.Zero(t, b.wrong(1))
	require.Greater(t, b.wrong(2), int64(990), "another pass's result")
}

func TestBenchWritesItsFiles(t *testing.T) {
	dir := t.TempDir()
	args := []string{"bench", "all_reduce", "-n", "2", "--transport", "inproc", "-b", "1K", "-e", "16K", "--iters", "2", "--save", dir}
	c := startCommand(t, args...)
	require.Equal(t, 0, c.wait(t), c.out)
	c = startCommand(t, append(args, "--compare", dir, "--plot", filepath.Join(dir, "p.png"))...)
	require.Equal(t, 0, c.wait(t), c.out)
	require.Contains(t, c.out.String(), "# geometric mean of the ratios: ")
	require.FileExists(t, filepath.Join(dir, "p.png"))
}

// What --tune writes is a table that --table takes and that chooses what was measured.
func TestBenchTune(t *testing.T) {
	file := filepath.Join(t.TempDir(), "table.json")
	c := startCommand(t, "bench", "--tune", "-n", "3", "--transport", "inproc", "-b", "1K", "-e", "64K", "-f", "8", "--iters", "2", "-o", file)
	require.Equal(t, 0, c.wait(t), c.out)
	b, err := os.ReadFile(file)
	require.NoError(t, err)
	table, err := collective.ParseTable(b)
	require.NoError(t, err, "%s", b)
	require.NotEqual(t, collective.Auto, table.Choose(collective.OpAllReduce, 1<<10, 3, collective.OneHost))
	require.Equal(t, collective.DefaultTable().Choose(collective.OpAllReduce, 1<<10, 2, collective.OneHost),
		table.Choose(collective.OpAllReduce, 1<<10, 2, collective.OneHost), "other worlds keep the built-in choice")
	for _, size := range []string{"1024", "8192", "65536"} {
		var chosen string
		for l := range strings.Lines(c.out.String()) {
			if f := strings.Fields(l); len(f) == 4 && f[0] == "all_reduce" && f[1] == size && f[2] == "chosen:" {
				chosen = f[3]
			}
		}
		n, err := parseSize(size)
		require.NoError(t, err)
		require.Equal(t, chosen, table.Choose(collective.OpAllReduce, int(n), 3, collective.OneHost).String(), c.out)
	}
	require.NotContains(t, c.out.String(), "hierarchical", "there is one host")
	require.Equal(t, collective.Hierarchical, table.Choose(collective.OpAllReduce, 1<<20, 3, collective.SeveralHosts), "several hosts were not measured")
	benchJSON(t, "all_reduce", "-n", "3", "--transport", "inproc", "-b", "1K", "-e", "1K", "--iters", "2", "--table", file)
}

// A rank that dies is named, and nothing is left running.
func TestBenchNamesARankThatDies(t *testing.T) {
	c := startCommand(t, "bench", "all_reduce", "-n", "3", "-b", "1M", "-e", "1M", "--iters", "1000000", "--place", "in")
	c.out.waitFor(t, "algorithm")
	var kids []int
	require.Eventually(t, func() bool { kids = c.children(t); return len(kids) == 3 }, processLimit, 1e6)
	require.NoError(t, syscall.Kill(kids[1], syscall.SIGKILL))
	require.Equal(t, exitFailed, c.wait(t), c.out)
	require.Regexp(t, `farandole: bench all_reduce: rank [012] was killed`, c.out.String())
	for _, pid := range kids {
		require.False(t, alive(pid))
	}
}

// A rank that crashes is named with the first line of what it said.
func TestBenchNamesACrash(t *testing.T) {
	c := startCommand(t, "bench", "all_reduce", "-n", "3", "-b", "1M", "-e", "1M", "--iters", "1000000", "--place", "in")
	c.out.waitFor(t, "algorithm")
	var kids []int
	require.Eventually(t, func() bool { kids = c.children(t); return len(kids) == 3 }, processLimit, 1e6)
	time.Sleep(100 * time.Millisecond) // for the child's run-time to take the signal over; earlier it dies of it, which is named too
	require.NoError(t, syscall.Kill(kids[2], syscall.SIGQUIT))
	require.Equal(t, exitFailed, c.wait(t), c.out)
	require.Regexp(t, `farandole: bench all_reduce: rank [012] (crashed: SIGQUIT: quit|died of a signal: quit)`, c.out.String())
}

func TestBenchInterrupted(t *testing.T) {
	c := startCommand(t, "bench", "all_reduce", "-n", "3", "-b", "1M", "-e", "1M", "--iters", "1000000", "--place", "in")
	c.out.waitFor(t, "algorithm")
	var kids []int
	require.Eventually(t, func() bool { kids = c.children(t); return len(kids) == 3 }, processLimit, 1e6)
	require.NoError(t, c.cmd.Process.Signal(os.Interrupt))
	require.Equal(t, exitInterrupted, c.wait(t), c.out)
	for _, pid := range kids {
		require.False(t, alive(pid))
	}
}

// The column names what ran, not what was asked for.
func TestBenchSaysWhichAlgorithmRan(t *testing.T) {
	file := filepath.Join(t.TempDir(), "table.json")
	rules := `{"rules":[{"op":"all-reduce","max_bytes":1024,"algorithm":"binary-tree"},{"op":"all-reduce","algorithm":"halving-doubling"}]}`
	require.NoError(t, os.WriteFile(file, []byte(rules), 0o600))
	rep := benchJSON(t, "all_reduce", "-n", "2", "--transport", "inproc", "-b", "1K", "-e", "2K", "-f", "2", "--iters", "1", "--table", file)
	require.Equal(t, "binary-tree", rep.Rows[0].Algorithm)
	require.Equal(t, "halving-doubling", rep.Rows[2].Algorithm)
	rep = benchJSON(t, "all_reduce", "-n", "2", "--transport", "inproc", "-b", "1K", "-e", "2K", "-f", "2", "--iters", "1", "--table", file, "--algorithm", "ring")
	require.Equal(t, "ring", rep.Rows[2].Algorithm)
}
