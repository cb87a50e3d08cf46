package main

import (
	"context"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Limits of running a test program.
const (
	// maxRounds is how often it is started anew after a test that ended the whole process, which is left out then.
	maxRounds = 8
	// maxAlone is how many failed tests are run once more, each in a process of its own: a GPU that one kernel has broken fails
	// every later test of the process.
	maxAlone = 40
	// aloneLimit is how long one of them may take.
	aloneLimit = 45 * time.Second
)

// verdicts of tests and benchmarks, by their full names.
type verdicts map[string]string

const (
	testPassed  = "PASS"
	testFailed  = "FAIL"
	testSkipped = "SKIP"
	testBegun   = "" // and nobody knows how it ended
)

var (
	begunLine  = regexp.MustCompile(`^=== RUN\s+(\S+)`)
	endedLine  = regexp.MustCompile(`^\s*--- (PASS|FAIL|SKIP): (\S+)`)
	cores      = regexp.MustCompile(`^(Benchmark.*?)-\d+$`)
	figureLine = regexp.MustCompile(`^(Benchmark\S+?)(?:-\d+)?\s+\d+\s+(.+)$`)
	figurePair = regexp.MustCompile(`(\S+) (\S+)`)
)

// readVerdicts reads what a test program with -test.v, or a benchmark, printed.
func readVerdicts(output string) verdicts {
	v := verdicts{}
	for line := range strings.Lines(output) {
		if m := begunLine.FindStringSubmatch(line); m != nil {
			v[m[1]] = testBegun
		} else if m := endedLine.FindStringSubmatch(line); m != nil {
			v[cores.ReplaceAllString(m[2], "$1")] = m[1]
		}
	}
	return v
}

// readFigures reads the metrics of benchmarks: "GELU us" of BenchmarkMemory/GELU is figures["Memory/GELU"]["us"].
func readFigures(output string) map[string]map[string]float64 {
	all := map[string]map[string]float64{}
	for line := range strings.Lines(output) {
		m := figureLine.FindStringSubmatch(strings.TrimSpace(line))
		if m == nil {
			continue
		}
		name := strings.TrimPrefix(m[1], "Benchmark")
		for _, pair := range figurePair.FindAllStringSubmatch(strings.Join(strings.Fields(m[2]), " "), -1) {
			if x, err := strconv.ParseFloat(pair[1], 64); err == nil {
				if all[name] == nil {
					all[name] = map[string]float64{}
				}
				all[name][pair[2]] = x
			}
		}
	}
	return all
}

// leaves are the tests with a verdict among wanted that have no subtest with one.
func (v verdicts) leaves(wanted ...string) (names []string) {
	for name, verdict := range v {
		if !slices.Contains(wanted, verdict) {
			continue
		}
		leaf := true
		for other, verdict := range v {
			leaf = leaf && !(strings.HasPrefix(other, name+"/") && slices.Contains(wanted, verdict))
		}
		if leaf {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// count is how many leaves have a verdict: a test with subtests is not counted beside them.
func (v verdicts) count(verdict string) (n int) {
	parents := map[string]bool{}
	for name := range v {
		for i, r := range name {
			if r == '/' {
				parents[name[:i]] = true
			}
		}
	}
	for name, got := range v {
		if got == verdict && !parents[name] {
			n++
		}
	}
	return n
}

// exactly is the pattern of -test.run, -test.skip and -test.bench for one test.
func exactly(name string) string {
	parts := strings.Split(name, "/")
	for i, p := range parts {
		parts[i] = "^" + regexp.QuoteMeta(p) + "$"
	}
	return strings.Join(parts, "/")
}

// tests runs a test program so that no failure hides another: a test that ends the process is left out and the rest begun anew,
// and what failed then runs alone. names are the tests that there should be.
func (b *bench) tests(ctx context.Context, names []string, argv ...string) (all verdicts, failures []failure) {
	argv = append(slices.Clip(argv), "-test.v", "-test.run", patternOf(names))
	all, e := b.rounds(ctx, argv)
	for _, name := range names {
		if _, ran := all[name]; !ran {
			failures = append(failures, failure{What: name + " did not run"})
		}
	}
	broken := all.leaves(testFailed, testBegun)
	if e.err != nil && len(broken) == 0 {
		failures = append(failures, failure{fmt.Sprintf("%s: %v", filepath.Base(argv[0]), e.err), last(e.output)})
	}
	for i, name := range broken {
		f := failure{What: name}
		if all[name] == testBegun {
			f.What += " did not end"
		}
		if left := timeLeft(ctx); i < maxAlone && left > time.Second {
			alone := b.run(ctx, min(left, aloneLimit), append(slices.Clip(argv[:len(argv)-1]), exactly(name))...)
			if alone.err == nil {
				f.What += "; alone it passes"
			} else {
				f.Lines = last(alone.output)
			}
		}
		failures = append(failures, f)
	}
	return all, failures
}

// rounds runs a test program until it comes to its end, each time without what ran before. It gives how the last round ended.
func (b *bench) rounds(ctx context.Context, argv []string) (all verdicts, e ended) {
	all = verdicts{}
	var skip []string
	for range maxRounds {
		command := argv
		if len(skip) > 0 {
			command = append(slices.Clip(argv), "-test.skip", strings.Join(skip, "|"))
		}
		e = b.run(ctx, timeLeft(ctx), command...)
		got := readVerdicts(e.output)
		for name, verdict := range got {
			if all[name] != testFailed {
				all[name] = verdict
			}
		}
		if e.err == nil || e.code == 1 || len(got) == 0 || ctx.Err() != nil { // 1: tests failed, and all of them ran
			break
		}
		for _, wanted := range [][]string{{testFailed, testBegun}, {testPassed, testSkipped}} {
			for _, name := range got.leaves(wanted...) {
				skip = append(skip, exactly(name))
			}
		}
	}
	return all, e
}

// patternOf matches exactly these top-level tests.
func patternOf(names []string) string { return "^(" + strings.Join(names, "|") + ")$" }

// timeLeft is how long ctx lasts.
func timeLeft(ctx context.Context) time.Duration {
	deadline, ok := ctx.Deadline()
	if !ok {
		return defaultLimit
	}
	return time.Until(deadline)
}

// figures runs benchmarks of a test program and keeps their figures. A benchmark that fails is run once more, alone.
func (b *bench) figures(ctx context.Context, r *report, prefix string, argv ...string) result {
	e := b.run(ctx, timeLeft(ctx), argv...)
	n := r.add(prefix, readFigures(e.output))
	if e.err == nil && n == 0 {
		return fail(e, "no figure was measured")
	}
	if e.err == nil {
		return pass("%d figures", n)
	}
	var failures []failure
	for i, name := range readVerdicts(e.output).leaves(testFailed) {
		left := timeLeft(ctx)
		if !strings.Contains(name, "/") || i >= maxAlone || left < time.Second {
			continue
		}
		again := b.run(ctx, min(left, aloneLimit), append(slices.Clip(argv), "-test.bench", exactly(name))...)
		n += r.add(prefix, readFigures(again.output))
		if again.err == nil {
			failures = append(failures, failure{What: name + "; alone it passes"})
		} else {
			failures = append(failures, failure{name, last(again.output)})
		}
	}
	if len(failures) == 0 {
		return fail(e, "%v, after %d figures", e.err, n)
	}
	return failing(failures...)
}
