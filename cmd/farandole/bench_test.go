package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestParseSize(t *testing.T) {
	for in, want := range map[string]int64{"0": 0, "512": 512, "1K": 1024, "1k": 1024, "4M": 4 << 20, "2G": 2 << 30, "64KiB": 64 << 10, "8B": 8} {
		got, err := parseSize(in)
		require.NoError(t, err, in)
		require.Equal(t, want, got, in)
	}
	for _, in := range []string{"", "K", "-1", "1T", "1.5M", "x", "99999999999G"} {
		_, err := parseSize(in)
		require.Error(t, err, in)
	}
}

func benchOpNamed(t *testing.T, name string) benchOp {
	t.Helper()
	op, err := benchOpByName(name)
	require.NoError(t, err)
	return op
}

func TestMergeTakesTheSlowestRankThenTheMedian(t *testing.T) {
	m, err := mergeResults([]benchResult{
		{Cell: 3, Batch: 2, Nanos: []int64{1_000_000, 2_000_000, 9_000_000}, Algorithm: "ring"},
		{Cell: 3, Batch: 2, Nanos: []int64{3_000_000, 1_000_000, 1_000_000}, Wrong: 2},
	})
	require.NoError(t, err)
	require.Equal(t, benchTiming{Cell: 3, Nanos: 1_500_000, Samples: 3, Wrong: 2, Algorithm: "ring"}, m, "the median of 3, 2, 9 ms, for two operations")
	_, err = mergeResults([]benchResult{{Cell: 1, Nanos: []int64{1}}, {Cell: 2, Nanos: []int64{1}}})
	require.Error(t, err, "ranks that measured different cells")
}

// The factors of four ranks, a size of 4 MB in 2 ms: 2 GB/s.
func TestBusBandwidth(t *testing.T) {
	for name, want := range map[string]struct {
		busbw float64
		count int64
	}{
		"all_reduce": {3, 1_000_000}, "reduce_scatter": {1.5, 250_000}, "all_gather": {1.5, 250_000}, "all_to_all": {1.5, 250_000},
		"broadcast": {2, 1_000_000}, "reduce": {2, 1_000_000}, "sendrecv": {2, 1_000_000},
	} {
		r := newBenchRow(benchOpNamed(t, name), 4, benchCell{Op: name, Bytes: 4_000_000, Type: "float32", Check: true}, benchTiming{Nanos: 2e6})
		require.InDelta(t, 2, r.AlgBW, 1e-9, name)
		require.InDelta(t, want.busbw, r.BusBW, 1e-9, name)
		require.Equal(t, want.count, r.Count, name)
	}
}

func TestBenchReportsWrongElements(t *testing.T) {
	var out bytes.Buffer
	op := benchOpNamed(t, "broadcast")
	p := newBenchPrinter(&out, op, &benchOptions{ranks: 2, transport: "tcp", output: "json"}, nil)
	p.row(newBenchRow(op, 2, benchCell{Op: "broadcast", Bytes: 8, Type: "float32", Check: true, Place: inPlace}, benchTiming{Nanos: 1000, Wrong: 1}), true)
	require.Equal(t, exitFailed, exitCodeOf(p.foot()))
	var rep map[string]any
	require.NoError(t, json.Unmarshal(out.Bytes(), &rep))
	row := rep["rows"].([]any)[0].(map[string]any)
	for _, k := range []string{"size", "count", "type", "redop", "algorithm", "in_place", "time_us", "algbw", "busbw", "wrong"} {
		require.Contains(t, row, k)
	}
	require.Equal(t, 1.0, row["wrong"])
	require.Equal(t, true, row["in_place"])
}

// A line of the table has a size in both places; a place that the operation does not have is not available.
func TestBenchTable(t *testing.T) {
	var out bytes.Buffer
	op := benchOpNamed(t, "all_reduce")
	o := &benchOptions{ranks: 2, transport: "tcp", output: "table", check: true, algorithm: "auto", iters: 20, warmup: 5}
	p := newBenchPrinter(&out, op, o, nil)
	p.head()
	cell := benchCell{Op: "all_reduce", Bytes: 4096, Type: "bfloat16", Redop: "avg", Check: true, Place: outOfPlace}
	p.row(newBenchRow(op, 2, cell, benchTiming{Nanos: 2048, Algorithm: "ring"}), false)
	cell.Place, cell.Check = inPlace, false
	p.row(newBenchRow(op, 2, cell, benchTiming{Nanos: 4096, Algorithm: "ring"}), true)
	require.NoError(t, p.foot())
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	require.Len(t, lines, 6, "%s", out.String())
	require.Equal(t, strings.Fields("4096 2048 bfloat16 avg -1 2.05 2.00 2.00 0 4.10 1.00 1.00 N/A ring"), strings.Fields(lines[4]))
	require.Equal(t, "# average bus bandwidth: 1.5000 GB/s", lines[5])
	require.Equal(t, strings.LastIndex(lines[2], "#wrong")+len("#wrong"), strings.LastIndex(lines[4], "N/A")+len("N/A"), "headings end above their columns")
	require.Equal(t, strings.LastIndex(lines[3], "(us)")+len("(us)"), strings.LastIndex(lines[4], "4.10")+len("4.10"))
}

// What a rank warns of reaches the reader, once.
func TestBenchNotes(t *testing.T) {
	n := &benchNotes{}
	n.logger().Info("nothing to see")
	require.Empty(t, n.take())
	n.logger().Warn("no registered memory", "bytes", 7)
	m, err := mergeResults([]benchResult{{}, {Notes: n.take()}})
	require.NoError(t, err)
	require.Equal(t, []string{`rank 1: msg="no registered memory" bytes=7`}, m.Notes)
	require.Empty(t, n.take())
}
