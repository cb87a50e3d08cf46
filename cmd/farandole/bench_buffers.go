package main

import (
	"fmt"

	"github.com/farandole-ml/farandole/collective"
	"github.com/farandole-ml/farandole/elastic"
	"github.com/farandole-ml/farandole/kernels"
)

// benchBuffers are one cell's arrays on one rank: where the input lies, where the result comes, and what both must be.
type benchBuffers struct {
	cell    benchCell
	op      benchOp
	pattern benchPattern
	rank    int
	world   int
	size    int // bytes of an element
	count   int // elements of one rank's part, or of the whole
	in, out []byte
	nodes   []elastic.Range // tree nodes whose sums the rank holds
	partial [][]byte        // their values; the first is in
	shards  int
	ranges  []elastic.Range
	free    []func()
}

// staleByte fills a result before it is checked, so that what is not written shows.
const staleByte = 0xa5

// newBenchBuffers gets the memory of a cell. The caller frees it with release.
func newBenchBuffers(g *collective.Group, c benchCell) (*benchBuffers, error) {
	op, err := benchOpByName(c.Op)
	if err != nil {
		return nil, err
	}
	t, err := kernels.ParseDType(c.Type)
	if err != nil {
		return nil, err
	}
	b := &benchBuffers{cell: c, op: op, rank: g.Rank(), world: g.World(), size: t.Size(), pattern: benchPattern{typ: t, parts: g.World()}}
	if op.reduces {
		if b.pattern.redop, err = collective.ParseRedOp(c.Redop); err != nil {
			return nil, err
		}
	}
	b.count = int(c.count(op, b.size, b.world))
	alloc := func(bytes int) []byte {
		if err != nil || bytes == 0 {
			return nil
		}
		if c.Private {
			return make([]byte, bytes)
		}
		var m []byte
		if m, err = g.Alloc(bytes); err == nil {
			b.free = append(b.free, func() { _ = g.Free(m) })
		}
		return m
	}
	b.lay(alloc)
	if err != nil {
		b.release()
		return nil, fmt.Errorf("memory for %s: %w", c, err)
	}
	return b, nil
}

// lay takes the arrays from alloc, one for both ends where they share it.
func (b *benchBuffers) lay(alloc func(bytes int) []byte) {
	part := b.count * b.size
	whole := part * b.world
	in, out := part, part
	if b.op.inParts {
		in = whole
	}
	if b.op.outParts {
		out = whole
	}
	switch {
	case b.op.kind == collective.OpBarrier:
		return
	case b.cell.Place == outOfPlace:
		b.in, b.out = alloc(in), alloc(out)
	case in == out:
		b.in = alloc(in)
		b.out = b.in
	case in < out:
		b.out = alloc(out)
		b.in = sub(b.out, b.rank*part, part)
	default:
		b.in = alloc(in)
		b.out = sub(b.in, b.rank*part, part)
	}
	if b.cell.Algorithm == benchTree {
		b.layTree(alloc)
	}
}

// layTree gives the rank a buffer for each of its tree nodes.
func (b *benchBuffers) layTree(alloc func(bytes int) []byte) {
	b.shards = max(b.cell.Shards, b.world)
	b.pattern.parts = b.shards
	b.ranges = elastic.Assign(b.shards, b.world)
	b.nodes = elastic.Partials(b.ranges[b.rank], b.shards)
	b.partial = append(b.partial, b.in)
	for range b.nodes[1:] {
		b.partial = append(b.partial, alloc(len(b.in)))
	}
}

func sub(b []byte, at, n int) []byte {
	if n == 0 {
		return nil
	}
	return b[at : at+n : at+n]
}

func (b *benchBuffers) release() {
	for _, f := range b.free {
		f()
	}
	b.free = nil
}

// rest fills everything with the value that an operation leaves as it is.
func (b *benchBuffers) rest() {
	period := b.pattern.neutral()
	repeatInto(b.out, period, 0, b.size)
	repeatInto(b.in, period, 0, b.size)
	for _, p := range b.partial {
		repeatInto(p, period, 0, b.size)
	}
}

// fill sets the inputs of a pass, and spoils the output.
func (b *benchBuffers) fill(pass int) {
	for i := range b.out {
		b.out[i] = staleByte
	}
	b.eachInput(pass, func(mem, period []byte, at int) { repeatInto(mem, period, at, b.size) })
}

// eachInput visits the rank's inputs with what they hold in a pass: mem[0] is element at of the period.
func (b *benchBuffers) eachInput(pass int, visit func(mem, period []byte, at int)) {
	part := b.count * b.size
	switch {
	case b.op.kind == collective.OpBarrier:
	case b.partial != nil:
		for i, node := range b.nodes {
			visit(b.partial[i], b.pattern.result(pass, node.First, node.End), 0)
		}
	case b.op.reduces:
		visit(b.in, b.pattern.part(pass, b.rank), 0)
	case b.op.rooted && b.rank != b.cell.Root: // it has no input
	case b.op.inParts: // all_to_all: another sequence for every destination
		for to := range b.world {
			visit(sub(b.in, to*part, part), b.pattern.moved(pass, b.rank*b.world+to), 0)
		}
	default:
		visit(b.in, b.pattern.moved(pass, b.rank), 0)
	}
}

// wrong counts the elements that are not what they must be after the operation: of the result, and of an input
// that is not the result's place.
func (b *benchBuffers) wrong(pass int) (n int64) {
	part := b.count * b.size
	switch {
	case b.op.kind == collective.OpBarrier:
	case b.op.reduces && b.op.rooted && b.rank != b.cell.Root: // it gets no result
	case b.op.reduces:
		at := 0
		if b.op.inParts {
			at = b.rank * b.count
		}
		n += wrongIn(b.out, b.pattern.result(pass, 0, b.pattern.parts), at, b.size)
	case b.op.outParts:
		for from := range b.world {
			seq := from
			if b.op.inParts {
				seq = from*b.world + b.rank
			}
			n += wrongIn(sub(b.out, from*part, part), b.pattern.moved(pass, seq), 0, b.size)
		}
	case b.op.rooted:
		n += wrongIn(b.out, b.pattern.moved(pass, b.cell.Root), 0, b.size)
	default: // sendrecv
		n += wrongIn(b.out, b.pattern.moved(pass, (b.rank+b.world-1)%b.world), 0, b.size)
	}
	if b.cell.Place == outOfPlace {
		b.eachInput(pass, func(mem, period []byte, at int) { n += wrongIn(mem, period, at, b.size) })
	}
	return n
}
