package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
)

// maxReportBytes bounds a saved report.
const maxReportBytes = 64 << 20

// fileName is what a run's report is called in a directory of --save: equal for runs that compare.
func (o *benchOptions) fileName(op benchOp) string {
	name := fmt.Sprintf("%s-n%d-%s", op.name, o.ranks, o.transport)
	if o.provider != "" {
		name += "-" + o.provider
	}
	if t, err := benchTransportByName(o.transport); err == nil && t.registers {
		if o.private() {
			name += "-private"
		} else {
			name += "-registered"
		}
	}
	if o.algorithm != "" {
		name += "-" + o.algorithm
	}
	if o.shards > 0 {
		name += fmt.Sprintf("-s%d", o.shards)
	}
	if o.checksum {
		name += "-checksum"
	}
	if o.coordinator != "" {
		name += "-hosts"
	}
	name += "-" + o.dtype
	if op.reduces {
		name += "-" + o.redop
	}
	return name + ".json"
}

// saveReport keeps r for later comparisons.
func saveReport(dir, name string, r *benchReport) error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return failf("%w", err)
	}
	path := filepath.Join(dir, name)
	if err := writeFileAtomic(path, append(b, '\n')); err != nil {
		return failf("--save %s: %v", path, causeOf(err))
	}
	return nil
}

// earlierRun is what a run is compared with.
type earlierRun struct {
	path        string
	report      benchReport
	rows        map[benchKey]benchRow
	differences []string
}

// benchKey is what two rows must share to be compared.
type benchKey struct {
	size    int64
	inPlace bool
}

// loadEarlier reads --compare: the file, or the one of the same name in the directory.
func loadEarlier(op benchOp, o *benchOptions) (*earlierRun, error) {
	if o.compare == "" {
		return nil, nil
	}
	path := o.compare
	st, err := os.Stat(path)
	if err != nil {
		return nil, usagef("--compare %s: %v", path, causeOf(err))
	}
	if st.IsDir() {
		path = filepath.Join(path, o.fileName(op))
		if st, err = os.Stat(path); err != nil {
			return nil, usagef("--compare %s has no %s: run the same command there with --save first, or name a file", o.compare, filepath.Base(path))
		}
	}
	if st.Size() > maxReportBytes {
		return nil, usagef("--compare %s has %s: no report is that large", path, bytesText(st.Size()))
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, usagef("--compare %s: %v", path, causeOf(err))
	}
	e := &earlierRun{path: path, rows: map[benchKey]benchRow{}}
	if err := json.Unmarshal(b, &e.report); err != nil {
		return nil, usagef("--compare %s is no report of bench: %v", path, err)
	}
	if e.report.Op != op.name {
		return nil, usagef("--compare %s is of %q, not of %s", path, e.report.Op, op.name)
	}
	for _, r := range e.report.Rows {
		e.rows[benchKey{r.Size, r.InPlace}] = r
	}
	e.differ(newBenchReport(op, o), o)
	return e, nil
}

// differ notes what else than the code may explain a difference.
func (e *earlierRun) differ(now *benchReport, o *benchOptions) {
	note := func(what string, then, now any) {
		if then != now {
			e.differences = append(e.differences, fmt.Sprintf("%s %v, now %v", what, then, now))
		}
	}
	note("ranks", e.report.Ranks, now.Ranks)
	note("transport", e.report.Transport, now.Transport)
	note("buffers", e.report.Buffers, now.Buffers)
	note("shards", e.report.Shards, now.Shards)
	if len(e.report.Rows) > 0 {
		r := e.report.Rows[0]
		note("type", r.Type, o.dtype)
		if r.Redop != "none" {
			note("redop", r.Redop, o.redop)
		}
	}
}

// ratio is how many times as fast r is as its earlier self; nil when there is none.
func (e *earlierRun) ratio(r benchRow) *float64 {
	then, ok := e.rows[benchKey{r.Size, r.InPlace}]
	if !ok || then.TimeUS <= 0 || r.TimeUS <= 0 {
		return nil
	}
	x := then.TimeUS / r.TimeUS
	return &x
}

// missing says which rows are in one of the two runs only.
func (e *earlierRun) missing(now *benchReport) (out []string) {
	place := func(r benchRow) string {
		if r.InPlace {
			return "in place"
		}
		return "out of place"
	}
	seen := map[benchKey]bool{}
	for _, r := range now.Rows {
		seen[benchKey{r.Size, r.InPlace}] = true
		if r.Ratio == nil {
			out = append(out, fmt.Sprintf("%d bytes %s: not in the earlier run", r.Size, place(r)))
		}
	}
	for _, r := range e.report.Rows {
		if !seen[benchKey{r.Size, r.InPlace}] {
			out = append(out, fmt.Sprintf("%d bytes %s: in the earlier run only", r.Size, place(r)))
		}
	}
	return out
}
