package main

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/farandole-ml/farandole/collective"
	"github.com/farandole-ml/farandole/kernels"
)

// benchTiming is one cell over all ranks.
type benchTiming struct {
	Cell      int
	Nanos     float64 // of one operation: the slowest rank of each sample, the median over samples
	Samples   int
	Wrong     int64 // over all ranks
	Algorithm string
	Notes     []string // what ranks warned of
}

// mergeResults makes one of all ranks' results for a cell.
func mergeResults(rs []benchResult) (benchTiming, error) {
	first := rs[0]
	slowest := slices.Clone(first.Nanos)
	t := benchTiming{Cell: first.Cell, Samples: len(first.Nanos), Algorithm: first.Algorithm}
	for rank, r := range rs {
		if r.Cell != first.Cell || r.Batch != first.Batch || len(r.Nanos) != len(slowest) {
			return t, errors.New("the ranks measured different things: do they run one version of farandole?")
		}
		t.Wrong += r.Wrong
		for _, n := range r.Notes {
			t.Notes = append(t.Notes, fmt.Sprintf("rank %d: %s", rank, n))
		}
		for i, ns := range r.Nanos {
			slowest[i] = max(slowest[i], ns)
		}
	}
	t.Nanos = median(slowest) / float64(max(1, first.Batch))
	return t, nil
}

func median[T int64 | float64](x []T) float64 {
	s := slices.Sorted(slices.Values(x))
	if len(s) == 0 {
		return 0
	}
	m := len(s) / 2
	if len(s)%2 == 1 {
		return float64(s[m])
	}
	return float64(s[m-1]+s[m]) / 2
}

// benchRow is one size in one place: bytes, microseconds and GB/s (10⁹ bytes a second).
type benchRow struct {
	Size      int64    `json:"size"`
	Count     int64    `json:"count"`
	Type      string   `json:"type"`
	Redop     string   `json:"redop"`
	Root      int      `json:"root"` // -1: the operation has none
	Algorithm string   `json:"algorithm"`
	InPlace   bool     `json:"in_place"`
	Samples   int      `json:"samples"`
	TimeUS    float64  `json:"time_us"`
	AlgBW     float64  `json:"algbw"`
	BusBW     float64  `json:"busbw"`
	Wrong     *int64   `json:"wrong"` // null: not checked
	Ratio     *float64 `json:"ratio,omitempty"`
}

// benchReport is `bench OP -o json`.
type benchReport struct {
	Op         string     `json:"op"`
	Ranks      int        `json:"ranks"`
	Transport  string     `json:"transport"`
	Buffers    string     `json:"buffers"`
	Shards     int        `json:"shards,omitempty"`
	Iterations int        `json:"iterations"` // samples that were asked for; 0: see the rows
	Warmup     int        `json:"warmup"`
	AvgBusBW   float64    `json:"avg_busbw"`
	MeanRatio  float64    `json:"mean_ratio,omitempty"` // geometric, with --compare
	Rows       []benchRow `json:"rows"`
}

func newBenchReport(op benchOp, o *benchOptions) *benchReport {
	r := &benchReport{Op: op.name, Ranks: o.ranks, Transport: o.transport, Buffers: "registered", Iterations: o.iters, Warmup: o.warmup, Rows: []benchRow{}}
	if o.private() {
		r.Buffers = "private"
	}
	if o.algorithm == benchTree {
		r.Shards = max(o.shards, o.ranks)
	}
	return r
}

// newBenchRow is what follows from a cell's timing.
func newBenchRow(op benchOp, ranks int, c benchCell, t benchTiming) benchRow {
	size := int64(1)
	if typ, err := kernels.ParseDType(c.Type); err == nil {
		size = int64(typ.Size())
	}
	r := benchRow{Size: c.Bytes, Count: c.count(op, int(size), ranks), Type: c.Type, Redop: "none", Root: -1,
		Algorithm: t.Algorithm, InPlace: c.Place == inPlace, Samples: t.Samples, TimeUS: t.Nanos / 1e3}
	if op.reduces {
		r.Redop = c.Redop
	}
	if op.rooted {
		r.Root = c.Root
	}
	if op.kind == collective.OpBarrier {
		r.Type = "none"
	} else if c.Check {
		r.Wrong = &t.Wrong
	}
	if t.Nanos > 0 {
		r.AlgBW = float64(c.Bytes) / t.Nanos
		r.BusBW = r.AlgBW * op.factor(float64(ranks))
	}
	return r
}

// finish computes the averages.
func (r *benchReport) finish() {
	var sum, logs float64
	ratios := 0
	for _, row := range r.Rows {
		sum += row.BusBW
		if row.Ratio != nil {
			logs += math.Log(*row.Ratio)
			ratios++
		}
	}
	r.AvgBusBW = sum / float64(max(1, len(r.Rows)))
	if ratios > 0 {
		r.MeanRatio = math.Exp(logs / float64(ratios))
	}
}

// wrong counts the wrong elements of all rows.
func (r *benchReport) wrong() (n int64) {
	for _, row := range r.Rows {
		if row.Wrong != nil {
			n += *row.Wrong
		}
	}
	return n
}
