package main

import (
	"fmt"
	"io"
	"slices"
)

// benchRow is one size of a benchmark: bytes, microseconds and GB/s (10⁹ bytes a second).
type benchRow struct {
	Size      int64   `json:"size"`
	Count     int64   `json:"count"`
	Type      string  `json:"type"`
	Redop     string  `json:"redop"`
	Algorithm string  `json:"algorithm"`
	InPlace   bool    `json:"in_place"`
	TimeUS    float64 `json:"time_us"`
	AlgBW     float64 `json:"algbw"`
	BusBW     float64 `json:"busbw"`
	Wrong     int64   `json:"wrong"`
}

// benchReport is `bench OP -o json`.
type benchReport struct {
	Op         string     `json:"op"`
	Ranks      int        `json:"ranks"`
	Transport  string     `json:"transport"`
	Shards     int        `json:"shards,omitempty"`
	Iterations int        `json:"iterations"`
	Warmup     int        `json:"warmup"`
	AvgBusBW   float64    `json:"avg_busbw"`
	Rows       []benchRow `json:"rows"`
}

// benchPrinter prints rows as they come, or all at the end.
type benchPrinter struct {
	w      io.Writer
	op     benchOp
	opts   *benchOptions
	report benchReport
}

func newBenchPrinter(w io.Writer, op benchOp, o *benchOptions) *benchPrinter {
	r := benchReport{Op: op.name, Ranks: o.ranks, Transport: "tcp", Iterations: o.iters, Warmup: o.warmup, Rows: []benchRow{}}
	if o.algorithm == "tree" {
		r.Shards = max(o.shards, o.ranks)
	}
	return &benchPrinter{w: w, op: op, opts: o, report: r}
}

func (p *benchPrinter) head() {
	switch p.opts.output {
	case "csv":
		fmt.Fprintln(p.w, "size,count,type,redop,algorithm,in_place,time_us,algbw,busbw,wrong")
	case "table":
		how := ""
		if p.opts.algorithm != "" {
			how = ", " + p.opts.algorithm
		}
		if p.report.Shards > 0 {
			how += fmt.Sprintf(" of %s", count(int64(p.report.Shards), "shard"))
		}
		fmt.Fprintf(p.w, "# %s over tcp on this host: %s%s, %d timed after %d warm-up iterations, in place\n",
			p.op.name, count(int64(p.opts.ranks), "rank"), how, p.opts.iters, p.opts.warmup)
		fmt.Fprintf(p.w, "#%11s %12s %8s %6s %11s %7s %7s %7s\n", "size", "count", "type", "redop", "time", "algbw", "busbw", "#wrong")
		fmt.Fprintf(p.w, "#%11s %12s %8s %6s %11s %7s %7s\n", "(B)", "(elements)", "", "", "(us)", "(GB/s)", "(GB/s)")
	}
}

// row adds the results of all ranks for one size.
func (p *benchPrinter) row(rs []benchResult) {
	r := benchRowOf(p.op, p.opts, rs)
	p.report.Rows = append(p.report.Rows, r)
	switch p.opts.output {
	case "csv":
		fmt.Fprintf(p.w, "%d,%d,%s,%s,%s,%v,%.3f,%.4f,%.4f,%d\n", r.Size, r.Count, r.Type, r.Redop, r.Algorithm, r.InPlace, r.TimeUS, r.AlgBW, r.BusBW, r.Wrong)
	case "table":
		fmt.Fprintf(p.w, "%12d %12d %8s %6s %11s %7.2f %7.2f %7d\n", r.Size, r.Count, r.Type, r.Redop, microsText(r.TimeUS), r.AlgBW, r.BusBW, r.Wrong)
	}
}

func microsText(us float64) string {
	if us < 1000 {
		return fmt.Sprintf("%.2f", us)
	}
	return fmt.Sprintf("%.0f", us)
}

// benchRowOf is the slowest rank of each iteration, the median over iterations, and what follows from it.
func benchRowOf(op benchOp, o *benchOptions, rs []benchResult) benchRow {
	slowest := slices.Clone(rs[0].Nanos)
	var wrong int64
	for _, r := range rs {
		wrong += r.Wrong
		for i, ns := range r.Nanos {
			slowest[i] = max(slowest[i], ns)
		}
	}
	size := rs[0].Size
	row := benchRow{Size: size, Count: size / 4, Type: "float", Redop: op.redop, Algorithm: o.algorithm, InPlace: true, Wrong: wrong}
	if row.Algorithm == "" {
		row.Algorithm = "default"
	}
	if op.perRank {
		row.Count /= int64(o.ranks) // of each rank, as nccl-tests counts
	}
	row.TimeUS = median(slowest) / 1e3
	if row.TimeUS > 0 {
		row.AlgBW = float64(size) / row.TimeUS / 1e3
		row.BusBW = row.AlgBW * op.factor(float64(o.ranks))
	}
	return row
}

func median(ns []int64) float64 {
	s := slices.Sorted(slices.Values(ns))
	if len(s) == 0 {
		return 0
	}
	m := len(s) / 2
	if len(s)%2 == 1 {
		return float64(s[m])
	}
	return float64(s[m-1]+s[m]) / 2
}

// foot prints the average bus bandwidth. A wrong element fails the benchmark.
func (p *benchPrinter) foot() error {
	var sum float64
	var wrong int64
	for _, r := range p.report.Rows {
		sum += r.BusBW
		wrong += r.Wrong
	}
	p.report.AvgBusBW = sum / float64(max(1, len(p.report.Rows)))
	switch p.opts.output {
	case "json":
		if err := writeJSON(p.w, p.report); err != nil {
			return err
		}
	case "table":
		fmt.Fprintf(p.w, "# average bus bandwidth: %.4f GB/s\n", p.report.AvgBusBW)
	}
	if wrong > 0 {
		return failf("bench %s: %s: do not trust this build or this machine", p.op.name, count(wrong, "wrong element"))
	}
	return nil
}
