package main

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/farandole-ml/farandole/collective"
)

// benchTuning is a measurement of all algorithms of some operations at the sizes of the options.
type benchTuning struct {
	opts  *benchOptions
	ops   []benchOp
	cells []benchCell
	best  map[tuneKey]benchTiming
	algos map[tuneKey]string
}

// tuneKey is one size of one operation.
type tuneKey struct {
	op    string
	bytes int64
}

// runBenchTune measures, says what was fastest where, and writes the table.
func runBenchTune(cmd *cobra.Command, ops []benchOp, o *benchOptions) error {
	t := &benchTuning{opts: o, best: map[tuneKey]benchTiming{}, algos: map[tuneKey]string{}}
	if o.redop == "" {
		o.redop = "sum"
	}
	for _, op := range ops {
		if len(messageAlgorithms(op)) < 2 {
			if len(ops) == 1 {
				return usagef("%s has one algorithm only: there is nothing to tune", op.name)
			}
			continue
		}
		if err := o.validate(op); err != nil {
			return err
		}
		if err := t.add(op); err != nil {
			return err
		}
		t.ops = append(t.ops, op)
	}
	if o.output == "table" {
		o.output = ""
	}
	out, progress := cmd.OutOrStdout(), cmd.OutOrStdout()
	if o.output == "" {
		progress = cmd.ErrOrStderr() // standard output carries the table
	}
	task, err := o.task(t.cells)
	if err != nil {
		return err
	}
	fmt.Fprintf(progress, "# %s of %s over %s: %s\n", "every algorithm", count(int64(len(t.ops)), "operation"), o.transport, count(int64(o.ranks), "rank"))
	var wrong int64
	err = o.measure(cmd, task, func(r benchTiming) error {
		wrong += r.Wrong
		t.take(r, progress)
		return nil
	})
	switch {
	case err != nil:
		return benchError("bench --tune", err)
	case wrong > 0:
		return failf("bench --tune: %s: no table is written; do not trust this build or this machine", count(wrong, "wrong element"))
	}
	return t.write(out, progress)
}

// messageAlgorithms are what a table chooses from; memory that is shared needs no choice.
func messageAlgorithms(op benchOp) (out []collective.Algorithm) {
	for _, a := range op.kind.Algorithms() {
		if a != collective.Shared {
			out = append(out, a)
		}
	}
	return out
}

// add plans the cells of one operation: all algorithms of a size one after the other, so that a machine that drifts
// favours none.
func (t *benchTuning) add(op benchOp) error {
	sizes, err := t.opts.sizes(op)
	if err != nil {
		return err
	}
	place := outOfPlace
	if op.inPlace {
		place = inPlace
	}
	for _, n := range sizes {
		for _, a := range messageAlgorithms(op) {
			if a == collective.Hierarchical && t.opts.coordinator == "" {
				continue // on one host it is another one by a second name
			}
			c := t.opts.cell(op, place, n)
			c.Algorithm = a.String()
			t.cells = append(t.cells, c)
		}
	}
	return nil
}

// take keeps the fastest of a size, and says which it was after its last algorithm.
func (t *benchTuning) take(r benchTiming, progress io.Writer) {
	c := t.cells[r.Cell]
	k := tuneKey{c.Op, c.Bytes}
	if best, ok := t.best[k]; !ok || r.Nanos < best.Nanos {
		t.best[k], t.algos[k] = r, c.Algorithm
	}
	fmt.Fprintf(progress, "%-15s %12d %-17s %11s us\n", c.Op, c.Bytes, c.Algorithm, microsText(r.Nanos/1e3))
	if last := r.Cell+1 == len(t.cells) || t.cells[r.Cell+1].Op != c.Op || t.cells[r.Cell+1].Bytes != c.Bytes; last {
		fmt.Fprintf(progress, "%-15s %12d chosen: %s\n", c.Op, c.Bytes, t.algos[k])
	}
}

// table has a rule for every run of sizes with one fastest algorithm. A rule reaches up to the size before the next one begins to
// be fastest; the last has no limit.
func (t *benchTuning) table() (*collective.Table, error) {
	table := &collective.Table{}
	for _, op := range t.ops {
		sizes, err := t.opts.sizes(op)
		if err != nil {
			return nil, err
		}
		for i, n := range sizes {
			name := t.algos[tuneKey{op.name, n}]
			if i+1 < len(sizes) && t.algos[tuneKey{op.name, sizes[i+1]}] == name {
				continue
			}
			a, err := collective.ParseAlgorithm(name)
			if err != nil {
				return nil, err
			}
			r := collective.Rule{Op: op.kind, MinWorld: t.opts.ranks, MaxWorld: t.opts.ranks, Choice: a}
			if t.opts.coordinator == "" {
				r.Hosts = collective.OneHost
			}
			if i+1 < len(sizes) {
				r.MaxBytes = int(n)
			}
			table.Rules = append(table.Rules, r)
		}
	}
	// Other worlds are not measured: the built-in choice holds for them.
	table.Rules = append(table.Rules, collective.DefaultTable().Rules...)
	return table, table.Check()
}

func (t *benchTuning) write(out, progress io.Writer) error {
	table, err := t.table()
	if err != nil {
		return failf("bench --tune: %w", err)
	}
	if t.opts.output == "" {
		return writeJSON(out, table)
	}
	b, err := json.MarshalIndent(table, "", "  ")
	if err != nil {
		return failf("bench --tune: %w", err)
	}
	if err := writeFileAtomic(t.opts.output, append(b, '\n')); err != nil {
		return failf("-o %s: %v", t.opts.output, causeOf(err))
	}
	fmt.Fprintf(progress, "# written to %s: use it by --table %s, or as collective.Tuning.Table\n", t.opts.output, t.opts.output)
	return nil
}
