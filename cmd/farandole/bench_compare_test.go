package main

import (
	"bytes"
	"image/png"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// benchOf prints a run of the sizes 4 and 8 in both places that takes micros.
func benchOf(t *testing.T, o *benchOptions, earlier *earlierRun, micros float64, sizes ...int64) (*benchReport, string) {
	t.Helper()
	var out bytes.Buffer
	op := benchOpNamed(t, "all_reduce")
	p := newBenchPrinter(&out, op, o, earlier)
	p.head()
	for _, n := range sizes {
		for i, place := range []benchPlace{outOfPlace, inPlace} {
			c := benchCell{Op: op.name, Bytes: n, Type: o.dtype, Redop: o.redop, Check: true, Place: place}
			p.row(newBenchRow(op, o.ranks, c, benchTiming{Nanos: micros * 1e3 * float64(i+1)}), i == 1)
		}
	}
	require.NoError(t, p.foot())
	return p.report, out.String()
}

func TestCompare(t *testing.T) {
	op, dir := benchOpNamed(t, "all_reduce"), t.TempDir()
	o := &benchOptions{ranks: 2, transport: "tcp", output: "table", check: true, algorithm: "auto", dtype: "float32", redop: "sum", compare: dir}
	_, err := loadEarlier(op, o)
	require.Equal(t, exitUsage, exitCodeOf(err), "nothing was saved yet")
	r, _ := benchOf(t, o, nil, 30, 4, 8, 16)
	require.NoError(t, saveReport(dir, o.fileName(op), r))

	e, err := loadEarlier(op, o)
	require.NoError(t, err)
	now, text := benchOf(t, o, e, 20, 8, 16, 32)
	require.InDelta(t, 1.5, *now.Rows[0].Ratio, 1e-9)
	require.Nil(t, now.Rows[5].Ratio)
	require.InDelta(t, 1.5, now.MeanRatio, 1e-9)
	require.Contains(t, text, "# geometric mean of the ratios: 1.500\n")
	require.Contains(t, text, "# not compared: 32 bytes in place: not in the earlier run\n")
	require.Contains(t, text, "# not compared: 4 bytes out of place: in the earlier run only\n")
	require.NotContains(t, text, "differs")

	o.compare, o.transport = filepath.Join(dir, o.fileName(op)), "inproc"
	e, err = loadEarlier(op, o)
	require.NoError(t, err, "a file is compared with whatever it is")
	_, text = benchOf(t, o, e, 20, 8)
	require.Contains(t, text, "# the earlier run differs: transport tcp, now inproc\n")

	_, err = loadEarlier(benchOpNamed(t, "broadcast"), o)
	require.Equal(t, exitUsage, exitCodeOf(err))
	require.ErrorContains(t, err, `is of "all_reduce", not of broadcast`)
}

// Runs that differ in what matters do not overwrite one another.
func TestSavedNamesDiffer(t *testing.T) {
	seen := map[string]bool{}
	for _, name := range []string{"all_reduce", "broadcast"} {
		for _, o := range []benchOptions{
			{ranks: 2, transport: "tcp", dtype: "float32"}, {ranks: 4, transport: "tcp", dtype: "float32"}, {ranks: 2, transport: "inproc", dtype: "float32"},
			{ranks: 2, transport: "tcp", dtype: "int32"}, {ranks: 2, transport: "tcp", dtype: "float32", algorithm: "ring"},
			{ranks: 2, transport: "tcp", dtype: "float32", checksum: true}, {ranks: 2, transport: "tcp", dtype: "float32", coordinator: "h:1"},
		} {
			n := o.fileName(benchOpNamed(t, name))
			require.False(t, seen[n], n)
			seen[n] = true
		}
	}
}

func TestPlot(t *testing.T) {
	o := &benchOptions{ranks: 2, transport: "tcp", output: "csv", check: true, dtype: "float32", redop: "sum"}
	r, _ := benchOf(t, o, nil, 30, 1024, 65536, 16<<20)
	path := filepath.Join(t.TempDir(), "p.png")
	require.NoError(t, plotReport(path, r, nil))
	alone := decoded(t, path)
	require.NoError(t, plotReport(path, r, &earlierRun{report: *r}))
	both := decoded(t, path)
	require.Greater(t, alone[curveColors[0]], 100, "the first curve is there")
	require.Greater(t, alone[curveColors[1]], 100, "and the second")
	require.NotEqual(t, alone, both, "the earlier run's curves are drawn")
	require.NoError(t, plotReport(path, &benchReport{}, nil), "nothing to show is no error")
}

// decoded counts the picture's pixels by colour.
func decoded(t *testing.T, path string) map[any]int {
	t.Helper()
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	img, err := png.Decode(bytes.NewReader(b))
	require.NoError(t, err)
	n := map[any]int{}
	for y := range img.Bounds().Dy() {
		for x := range img.Bounds().Dx() {
			n[img.At(x, y)]++
		}
	}
	return n
}

func TestSizeMarks(t *testing.T) {
	var got []string
	for _, e := range []int{0, 2, 10, 13, 20, 33} {
		got = append(got, sizeMark(e))
	}
	require.Equal(t, "1 4 1K 8K 1M 8G", strings.Join(got, " "))
}
