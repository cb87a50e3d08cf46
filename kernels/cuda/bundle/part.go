package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Verdicts on a part or a bar.
const (
	passed = "pass"
	failed = "fail"
	missed = "miss"    // a bar that the figure does not reach
	empty  = "empty"   // there was nothing to run or to compare with
	noGPU  = "no GPU"  // it needs one
	notRun = "not run" // the time or the patience did not reach
)

// part is one thing that the machine can tell.
type part struct {
	name  string
	gpu   bool          // it needs one
	limit time.Duration // at most
	least time.Duration // with less left it is not begun
	do    func(ctx context.Context, b *bench, r *report) result
}

// result is what a part found out.
type result struct {
	Name     string    `json:"name"`
	Verdict  string    `json:"verdict"`
	Note     string    `json:"note,omitempty"`
	Seconds  float64   `json:"seconds"`
	Log      string    `json:"log,omitempty"`
	Failures []failure `json:"failures,omitempty"`
}

// failure is one check that failed, with the last lines of its output.
type failure struct {
	What  string   `json:"what"`
	Lines []string `json:"lines,omitempty"`
}

func pass(format string, args ...any) result {
	return result{Verdict: passed, Note: fmt.Sprintf(format, args...)}
}
func nothing(format string, args ...any) result {
	return result{Verdict: empty, Note: fmt.Sprintf(format, args...)}
}

// fail is a part with one failure.
func fail(e ended, format string, args ...any) result {
	return failing(failure{fmt.Sprintf(format, args...), last(e.output)})
}

func failing(list ...failure) result {
	r := result{Verdict: failed, Note: list[0].What, Failures: list}
	if len(list) > 1 {
		r.Note = fmt.Sprintf("%d failures, the first: %s", len(list), r.Note)
	}
	return r
}

// runner runs parts in order and keeps the report on disk current.
type runner struct {
	options
	report *report
	began  time.Time
	say    io.Writer
	cache  string // the driver's compiled kernels, kept from part to part
}

const logFolder = "logs"

// reserve is kept of the limit for writing the report.
const reserve = 2 * time.Second

// newRunner empties what an earlier run left in the folder.
func newRunner(o options, say io.Writer) (*runner, error) {
	if err := adopt(); err != nil {
		return nil, err
	}
	for _, name := range []string{logFolder, jsonFile, markdownFile} {
		if err := os.RemoveAll(filepath.Join(o.out, name)); err != nil {
			return nil, err
		}
	}
	if err := os.MkdirAll(filepath.Join(o.out, logFolder), 0o755); err != nil {
		return nil, err
	}
	version, err := os.ReadFile(filepath.Join(o.bundle, "VERSION"))
	if err != nil {
		return nil, fmt.Errorf("%w: -bundle names the folder of run.sh", err)
	}
	r := &runner{options: o, began: time.Now(), say: say, cache: filepath.Join(o.programs, "driver-cache")}
	r.report = newReport(string(version), o, r.began)
	return r, nil
}

// runAll runs the parts. An interrupt ends the one that runs, and leaves the rest.
func (r *runner) runAll(ctx context.Context, parts []part) {
	ctx, cancel := context.WithDeadlineCause(ctx, r.began.Add(r.limit-reserve), errTime)
	defer cancel()
	for i, p := range parts {
		fmt.Fprintf(r.say, "[%4.0f s] %d of %d: %s\n", time.Since(r.began).Seconds(), i+1, len(parts), p.name)
		res := r.one(ctx, p)
		res.Name = p.name
		r.report.Parts = append(r.report.Parts, res)
		fmt.Fprintf(r.say, "         %s in %.1f s%s\n", res.Verdict, res.Seconds, strings.TrimSuffix(": "+res.Note, ": "))
		if err := r.report.write(r.out); err != nil {
			fmt.Fprintln(r.say, "report:", err)
		}
	}
}

func (r *runner) one(ctx context.Context, p part) (res result) {
	began := time.Now()
	deadline, _ := ctx.Deadline()
	left := time.Until(deadline)
	switch {
	case p.gpu && r.report.NoGPU != "":
		return result{Verdict: noGPU}
	case ctx.Err() != nil && !errors.Is(context.Cause(ctx), errTime):
		return result{Verdict: notRun, Note: "interrupted"}
	case left < p.least:
		return result{Verdict: notRun, Note: fmt.Sprintf("%.0f s were left, it wants at least %.0f", max(left, 0).Seconds(), p.least.Seconds())}
	}
	log, err := os.Create(filepath.Join(r.out, logFolder, p.name+".log"))
	if err != nil {
		return failing(failure{What: err.Error()})
	}
	defer log.Close()
	own, cancel := context.WithTimeout(ctx, p.limit)
	defer cancel()
	b := &bench{options: r.options, log: log, env: []string{"CUDA_CACHE_PATH=" + r.cache, "PYTHONUNBUFFERED=1"}}
	res = p.do(own, b, r.report)
	res.Seconds = time.Since(began).Seconds()
	res.Log = filepath.Join(logFolder, p.name+".log")
	if own.Err() != nil && res.Verdict == failed && ctx.Err() != nil {
		if errors.Is(context.Cause(ctx), errTime) {
			res.Note = "the whole run's time ended: " + res.Note
		} else {
			res.Verdict, res.Note, res.Failures = notRun, "interrupted", nil
		}
	}
	return res
}

// finish writes the report a last time and says how it all ended.
func (r *runner) finish(ctx context.Context) int {
	code := r.report.finish(ctx.Err() != nil, time.Since(r.began))
	if err := r.report.write(r.out); err != nil {
		fmt.Fprintln(r.say, "report:", err)
		return exitFailed
	}
	fmt.Fprintf(r.say, "\n%s\n%s: exit code %d\n", r.report.markdown(), filepath.Join(r.out, markdownFile), code)
	return code
}
