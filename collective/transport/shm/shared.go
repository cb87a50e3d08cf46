//go:build linux

package shm

import (
	"fmt"

	"github.com/farandole-ml/farandole/collective"
	"github.com/farandole-ml/farandole/kernels"
)

const (
	// directBytes is how many bytes a rank may read in an operation in which every rank computes the whole result from what
	// all have staged, at one meeting, instead of sharing the work at two.
	directBytes = 32 << 10

	// stagedBytes is the length up to which arrays are staged even where they could be touched in place, which takes one
	// meeting more.
	stagedBytes = 16 << 10
)

// task is the running operation with its arguments. Arrays that are staged go in blocks of block bytes of the array, or
// of every rank's part of it where the operation is on parts.
type task struct {
	op       collective.Op
	in, out  []byte
	root     int
	partials []collective.Partial
	red      kernels.Reduction

	bytes  int // of the array or part
	block  int
	blocks int // one at least

	exposed bool // peers may write to out

	plan       treePlan
	srcs, dsts [][]byte // scratch
	ins, outs  [][]byte // the arrays of all ranks, in place
}

// Shared implements collective.Sharer.
func (t *member) Shared() collective.SharedMemory { return t }

// Do implements collective.SharedMemory. It handles every operation.
func (t *member) Do(op collective.Op, c *collective.Call) (bool, error) {
	if !t.enter() {
		return true, t.cause()
	}
	t.busy.Lock()
	t.task.exposed = false
	err := t.perform(op, c)
	if err != nil && t.task.exposed {
		if e := t.arena.isolate(t.task.out); e != nil {
			t.log.Error("a peer may still write to registered memory: do not use it again", "bytes", len(t.task.out), "err", e)
		}
	}
	t.task.in, t.task.out, t.task.partials = nil, nil, nil
	t.idle()
	t.leave()
	return true, err
}

func (t *member) perform(op collective.Op, c *collective.Call) error {
	k := &t.task
	k.op, k.root = op, c.Root
	k.in, k.out, k.partials = c.In.Data, c.Out.Data, c.Partials
	switch op.Kind {
	case collective.OpBarrier:
		return t.meet(&k.op)
	case collective.OpReduceTree:
		if err := t.prepareTree(c); err != nil {
			t.Abort(err)
			return t.cause()
		}
	case collective.OpAllReduce, collective.OpReduce, collective.OpReduceScatter:
		k.red = kernels.Reduction{Type: c.In.Type, Op: kernels.RedOp(c.Op)}
		if c.Op == collective.Avg {
			k.red.Op, k.red.Divisor = kernels.Sum, len(t.peers)
		}
	}
	k.divide(len(t.peers), t.stageBytes)
	if k.isDirect(len(t.peers)) {
		return t.direct()
	}
	return t.begin()
}

// divide plans the blocks of a staged operation.
func (k *task) divide(world, stageBytes int) {
	k.block = stageBytes
	switch k.op.Kind {
	case collective.OpAllReduce:
		k.bytes = len(k.out)
	case collective.OpReduceTree:
		k.bytes = len(k.out)
		k.block = stageBytes / k.plan.most / lineBytes * lineBytes
	case collective.OpReduce, collective.OpAllGather:
		k.bytes = len(k.in)
	case collective.OpBroadcast:
		k.bytes = len(k.out)
	case collective.OpReduceScatter:
		k.bytes = len(k.out)
		k.block = stageBytes / world / lineBytes * lineBytes
	case collective.OpAllToAll:
		k.bytes = len(k.out) / world
		k.block = stageBytes / world / lineBytes * lineBytes
	}
	k.blocks = max(1, (k.bytes+k.block-1)/k.block)
}

// span is block i.
func (k *task) span(i int) (lo, hi int) {
	return min(i*k.block, k.bytes), min((i+1)*k.block, k.bytes)
}

// sums says whether the result of one rank's part goes to others.
func (k *task) sums() bool {
	return k.op.Kind == collective.OpAllReduce || k.op.Kind == collective.OpReduce || k.op.Kind == collective.OpReduceTree
}

func (k *task) isDirect(world int) bool {
	copies := world
	if k.op.Kind == collective.OpReduceTree {
		copies = k.plan.leaves
	}
	return k.sums() && k.blocks == 1 && k.bytes*copies <= directBytes
}

// direct stages everything, and computes the whole result from what all ranks have staged.
func (t *member) direct() error {
	k := &t.task
	t.stageIn(0)
	t.publish(&k.op, 0, place{}, place{})
	if err := t.gather(&k.op); err != nil {
		return err
	}
	if k.op.Kind != collective.OpReduce || k.root == t.id.Rank {
		t.staged(t.count&1, 0, 0, k.bytes)
		k.dsts = append(k.dsts[:0], k.out)
		k.red.Run(k.dsts, k.srcs)
	}
	return nil
}

// begin holds the first meeting of an operation, at which the ranks find out whether it can be done in place.
func (t *member) begin() error {
	k := &t.task
	flags, in, out := uint32(0), place{}, place{}
	if k.bytes*len(t.peers) > stagedBytes {
		var ok bool
		if in, out, ok = t.locateAll(); !ok {
			flags = flagStaged
		}
	} else {
		flags = flagStaged
	}
	if flags&flagStaged != 0 {
		t.stageIn(0)
	}
	k.exposed = k.sums() && out.buffer != 0
	t.publish(&k.op, flags, in, out)
	if err := t.gather(&k.op); err != nil {
		return err
	}
	private, voters := 0, 0
	for r := range t.peers {
		if k.op.Kind == collective.OpBroadcast && r != k.root {
			continue // it has nothing that others touch
		}
		voters++
		if t.line(r).flags&flagStaged != 0 {
			private++
		}
	}
	switch private {
	case 0:
		return t.inPlace()
	case voters:
		k.exposed = false
	default: // those that could do it in place have to stage too
		k.exposed = false
		t.stageIn(0)
		if err := t.meet(&k.op); err != nil {
			return err
		}
	}
	if k.sums() {
		return t.reduceStaged()
	}
	return t.exchangeStaged()
}

// segment is the segment of rank r.
func (t *member) segment(r int) *segment {
	if r == t.id.Rank {
		return t.own
	}
	return t.peers[r].seg
}

// line is what rank r has published for the current meeting.
func (t *member) line(r int) *line { return t.segment(r).line[t.count&1] }

// corrupt ends the group because rank r has published what cannot be.
func (t *member) corrupt(r int, what string) error {
	return t.fail(t.blame(r, fmt.Errorf("%w: %s", ErrCorrupt, what)))
}

// lineUnit is the multiple of which parts of an array of n bytes, cut in world parts, begin: a cache line, so that no two ranks
// write the same one, unless there are too few.
func lineUnit(n, world, element int) int {
	if n < 2*lineBytes*world {
		return element
	}
	return lineBytes
}

// cut is where part i of parts of n bytes begins: nearly equal parts, each beginning at a multiple of unit.
func cut(n, parts, i, unit int) int {
	if i == parts {
		return n
	}
	return n / unit * i / parts * unit
}

// part is this rank's, or another's, part of a block of n bytes.
func (t *member) part(n, r int) (lo, hi int) {
	unit := lineUnit(n, len(t.peers), t.task.red.Type.Size())
	return cut(n, len(t.peers), r, unit), cut(n, len(t.peers), r+1, unit)
}
