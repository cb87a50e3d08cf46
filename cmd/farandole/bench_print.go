package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/farandole-ml/farandole/collective"
)

// benchPrinter prints rows as they come, or all at the end. A line of the table has both places of a size.
type benchPrinter struct {
	w       io.Writer
	op      benchOp
	opts    *benchOptions
	report  *benchReport
	earlier *earlierRun // nil without --compare
	line    [2]*benchRow
}

func newBenchPrinter(w io.Writer, op benchOp, o *benchOptions, e *earlierRun) *benchPrinter {
	return &benchPrinter{w: w, op: op, opts: o, report: newBenchReport(op, o), earlier: e}
}

func (p *benchPrinter) head() {
	switch p.opts.output {
	case "csv":
		ratio := ""
		if p.earlier != nil {
			ratio = ",ratio"
		}
		fmt.Fprintf(p.w, "size,count,type,redop,root,algorithm,in_place,time_us,algbw,busbw,wrong%s\n", ratio)
	case "table":
		p.tableHead()
	}
}

func (p *benchPrinter) tableHead() {
	o, how := p.opts, ""
	if o.algorithm != "" {
		how = ", " + o.algorithm
	}
	if p.report.Shards > 0 {
		how += " of " + count(int64(p.report.Shards), "shard")
	}
	if t, err := benchTransportByName(o.transport); err == nil && t.registers {
		how += ", " + p.report.Buffers + " buffers"
	}
	where := "this host"
	if o.coordinator != "" {
		where = "the hosts of " + o.coordinator
	}
	samples := fmt.Sprintf("%d to %d samples", minBenchSamples, maxBenchSamples)
	if o.iters > 0 {
		samples = count(int64(o.iters), "sample")
	}
	over := o.transport
	if o.provider != "" {
		over += " (" + o.provider + ")"
	}
	fmt.Fprintf(p.w, "# %s over %s on %s: %s%s, medians of %s after %s\n", p.op.name, over, where,
		count(int64(o.ranks), "rank"), how, samples, count(int64(o.warmup), "warm-up operation"))
	if p.earlier != nil {
		fmt.Fprintf(p.w, "# ratio: the time in %s divided by the time now: above 1 is faster now\n", p.earlier.path)
		for _, d := range p.earlier.differences {
			fmt.Fprintf(p.w, "# the earlier run differs: %s\n", d)
		}
	}
	// Two headings, as wide as the columns below.
	width := len(p.placeHead())
	centre := func(s string) string {
		left := (width - len(s)) / 2
		return strings.Repeat(" ", left) + s + strings.Repeat(" ", width-left-len(s))
	}
	fmt.Fprintf(p.w, "#%48s %s %s\n", "", centre("out-of-place"), strings.TrimRight(centre("in-place"), " "))
	fmt.Fprintf(p.w, "#%11s %12s %8s %6s %6s %s %s  algorithm\n", "size", "count", "type", "redop", "root", p.placeHead(), p.placeHead())
	units := fmt.Sprintf("%11s %7s %7s %7s", "(us)", "(GB/s)", "(GB/s)", "")
	if p.earlier != nil {
		units += strings.Repeat(" ", 8)
	}
	fmt.Fprintf(p.w, "#%11s %12s %8s %6s %6s %s %s\n", "(B)", "(elements)", "", "", "", units, strings.TrimRight(units, " "))
}

func (p *benchPrinter) placeHead() string {
	h := fmt.Sprintf("%11s %7s %7s %7s", "time", "algbw", "busbw", "#wrong")
	if p.earlier != nil {
		h += fmt.Sprintf(" %7s", "ratio")
	}
	return h
}

// row adds a row; last says that the size's other place was there or does not come.
func (p *benchPrinter) row(r benchRow, last bool) {
	if p.earlier != nil {
		r.Ratio = p.earlier.ratio(r)
	}
	p.report.Rows = append(p.report.Rows, r)
	switch p.opts.output {
	case "csv":
		p.csvRow(r)
	case "table":
		i := 0
		if r.InPlace {
			i = 1
		}
		p.line[i] = &r
		if last {
			p.tableLine(r)
			p.line = [2]*benchRow{}
		}
	}
}

func (p *benchPrinter) csvRow(r benchRow) {
	wrong, ratio := "", ""
	if r.Wrong != nil {
		wrong = fmt.Sprint(*r.Wrong)
	}
	if p.earlier != nil {
		ratio = ","
		if r.Ratio != nil {
			ratio = fmt.Sprintf(",%.4f", *r.Ratio)
		}
	}
	fmt.Fprintf(p.w, "%d,%d,%s,%s,%d,%s,%v,%.3f,%.4f,%.4f,%s%s\n",
		r.Size, r.Count, r.Type, r.Redop, r.Root, r.Algorithm, r.InPlace, r.TimeUS, r.AlgBW, r.BusBW, wrong, ratio)
}

func (p *benchPrinter) tableLine(r benchRow) {
	line := fmt.Sprintf("%12d %12d %8s %6s %6d", r.Size, r.Count, r.Type, r.Redop, r.Root)
	for _, r := range p.line {
		line += " " + p.placeText(r)
	}
	fmt.Fprintln(p.w, line+"  "+r.Algorithm)
}

// placeText is one place's columns; a place that was not measured is not available.
func (p *benchPrinter) placeText(r *benchRow) string {
	time, alg, bus, wrong, ratio := "N/A", "N/A", "N/A", "N/A", "N/A"
	if r != nil {
		time, alg, bus = microsText(r.TimeUS), fmt.Sprintf("%.2f", r.AlgBW), fmt.Sprintf("%.2f", r.BusBW)
		if r.Wrong != nil {
			wrong = fmt.Sprint(*r.Wrong)
		}
		if r.Ratio != nil {
			ratio = fmt.Sprintf("%.2f", *r.Ratio)
		}
	}
	s := fmt.Sprintf("%11s %7s %7s %7s", time, alg, bus, wrong)
	if p.earlier != nil {
		s += fmt.Sprintf(" %7s", ratio)
	}
	return s
}

func microsText(us float64) string {
	if us < 1000 {
		return fmt.Sprintf("%.2f", us)
	}
	return fmt.Sprintf("%.0f", us)
}

// foot prints the averages. A wrong element fails the benchmark.
func (p *benchPrinter) foot() error {
	p.report.finish()
	switch p.opts.output {
	case "json":
		if err := writeJSON(p.w, p.report); err != nil {
			return err
		}
	case "table":
		p.tableFoot()
	}
	if n := p.report.wrong(); n > 0 {
		return failf("bench %s: %s: do not trust this build or this machine", p.op.name, count(n, "wrong element"))
	}
	return nil
}

func (p *benchPrinter) tableFoot() {
	if !p.opts.check {
		fmt.Fprintln(p.w, "# nothing was checked: --check=false")
	}
	if p.earlier != nil {
		for _, m := range p.earlier.missing(p.report) {
			fmt.Fprintf(p.w, "# not compared: %s\n", m)
		}
		if p.report.MeanRatio > 0 {
			fmt.Fprintf(p.w, "# geometric mean of the ratios: %.3f\n", p.report.MeanRatio)
		}
	}
	if p.op.kind == collective.OpBarrier {
		return // which has latency alone
	}
	fmt.Fprintf(p.w, "# average bus bandwidth: %.4f GB/s\n", p.report.AvgBusBW)
}
