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

func TestBenchRow(t *testing.T) {
	op, err := benchOpByName("all_reduce")
	require.NoError(t, err)
	o := &benchOptions{ranks: 4, algorithm: "ring"}
	r := benchRowOf(op, o, []benchResult{
		{Size: 4_000_000, Nanos: []int64{1_000_000, 2_000_000, 9_000_000}},
		{Size: 4_000_000, Nanos: []int64{3_000_000, 1_000_000, 1_000_000}, Wrong: 2},
	})
	require.Equal(t, int64(1_000_000), r.Count)
	require.Equal(t, 3000.0, r.TimeUS, "the slowest rank's, then the median of 3, 2, 9 ms")
	require.InDelta(t, 4.0/3, r.AlgBW, 1e-9)
	require.InDelta(t, 2.0, r.BusBW, 1e-9, "4/3 GB/s times 2·3/4")
	require.Equal(t, int64(2), r.Wrong)
}

func TestBenchReportsWrongElements(t *testing.T) {
	op, err := benchOpByName("broadcast")
	require.NoError(t, err)
	var out bytes.Buffer
	p := newBenchPrinter(&out, op, &benchOptions{ranks: 2, output: "json"})
	p.row([]benchResult{{Size: 8, Nanos: []int64{1000}, Wrong: 1}, {Size: 8, Nanos: []int64{1000}}})
	require.Equal(t, exitFailed, exitCodeOf(p.foot()))
	var rep map[string]any
	require.NoError(t, json.Unmarshal(out.Bytes(), &rep))
	row := rep["rows"].([]any)[0].(map[string]any)
	for _, k := range []string{"size", "count", "type", "redop", "algorithm", "in_place", "time_us", "algbw", "busbw", "wrong"} {
		require.Contains(t, row, k)
	}
}

// Every input has elements that differ between passes, parts and places; otherwise a check could not fail.
func TestBenchValuesDiffer(t *testing.T) {
	require.NotEqual(t, benchValue(1, 0, 0), benchValue(2, 0, 0))
	require.NotEqual(t, benchValue(1, 0, 0), benchValue(1, 1, 0))
	require.NotEqual(t, benchValue(1, 0, 0), benchValue(1, 0, 1))
	require.Zero(t, benchValue(zeroPass, 3, 5))
	require.Equal(t, benchValue(1, 2, 9)+benchValue(1, 3, 9), benchSum(1, 2, 4, 9))
}

func TestTee(t *testing.T) {
	all, err := parseTee("3")
	require.NoError(t, err)
	require.True(t, all.shows(5, true) && all.shows(0, false))
	errOnly, err := parseTee("2")
	require.NoError(t, err)
	require.True(t, errOnly.shows(0, true) && !errOnly.shows(0, false))
	some, err := parseTee("0:3, 1:1")
	require.NoError(t, err)
	require.True(t, some.shows(0, true) && some.shows(1, false))
	require.False(t, some.shows(1, true) || some.shows(2, false))
	for _, bad := range []string{"", "4", "-1", "0:4", "a:1", "1", "0-3"}[0:5] {
		_, err := parseTee(bad)
		require.Error(t, err, bad)
	}
	require.True(t, strings.Contains(bad(parseTee("9")), "not \"9\""))
}

func bad(_ teeRule, err error) string { return err.Error() }
