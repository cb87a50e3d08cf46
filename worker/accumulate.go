package worker

import (
	"math"

	"github.com/farandole-ml/farandole/elastic"
)

// accumulation merges one worker's shards of one step, as the reduction tree says. A shard's gradients may come in
// parts, as backward finishes them: what is in of the last shard is complete, and may be reduced.
type accumulation struct {
	v      *vector
	r      elastic.Range
	merger *elastic.Merger // nil when shards are summed one after the other
	at     int             // next shard, or the open one
	slots  [][]float32
	res    *residence // has the gradients in its own slots, and these have only tails; nil: they are on the host

	// of the open shard
	into   []float32 // nil when none is open
	slot   int       // its number
	plus   bool      // into is its sibling's sum
	merges []elastic.Merge
	in     int // elements of it that are in

	pulled int   // elements of the open shard's gradients that are in registered memory
	err    error // of the Mirror: the sum is of no use

	badShard, badTensor int // first own shard with a NaN or Inf; badTensor is finite when there is none
}

func (v *vector) accumulate(r elastic.Range, shards int, tree bool) *accumulation {
	a := &accumulation{v: v, r: r, at: r.First, badTensor: finite}
	if tree {
		a.merger = elastic.NewMerger(r, shards)
		a.slots = make([][]float32, elastic.Slots(r, shards))
	} else {
		a.slots = make([][]float32, 1)
	}
	return a
}

func (a *accumulation) next() int { return a.at }

// last says that the next or open shard is the last one.
func (a *accumulation) last() bool { return a.at == a.r.End-1 }

func (a *accumulation) complete() bool { return a.at == a.r.End }

// open plans the next shard. One that completes a node is added to its sibling straight from the gradients.
func (a *accumulation) open() {
	m := elastic.MergeStep{Slot: 0}
	if a.merger != nil {
		m, _ = a.merger.Next()
	} else if a.at > a.r.First {
		m.Slot, m.Merges = 1, []elastic.Merge{{Into: 0, From: 1}}
	}
	slot := m.Slot
	a.merges = m.Merges
	if a.plus = len(m.Merges) > 0 && m.Merges[0].From == slot; a.plus {
		slot, a.merges = m.Merges[0].Into, m.Merges[1:]
	} else {
		a.slots[slot] = a.take()
	}
	a.into, a.slot, a.in = a.slots[slot], slot, 0
}

func (a *accumulation) take() []float32 {
	if a.res != nil {
		return make([]float32, tailLen)
	}
	return a.v.take()
}

// pull has the Mirror, if there is one, bring the next or open shard's gradients up to element end of the vector. They are final and
// whole tensors.
func (a *accumulation) pull(end int) {
	if a.v.pull == nil || a.res != nil || end <= a.pulled || a.err != nil {
		return
	}
	if first, last := a.v.tensors(a.pulled, end); first < last {
		a.err = a.v.pull(first, last)
	}
	a.pulled = end
}

// put brings the shard's gradients in up to element end of the vector. They are final and whole tensors.
func (a *accumulation) put(params []param, end int) {
	if a.into == nil {
		a.open()
	}
	if end <= a.in {
		return
	}
	if a.res != nil {
		a.putThere(params)
		return
	}
	a.pull(end)
	if bad := a.v.collect(a.into, params, a.in, end, a.plus); bad != finite {
		a.blame(bad)
	}
	for _, g := range a.merges {
		a.v.plus(a.slots[g.Into], a.slots[g.From], a.in, end)
	}
	a.in = end
}

// putThere is put of all gradients, on the device.
func (a *accumulation) putThere(params []param) {
	a.in = a.v.grads
	if a.err != nil {
		return
	}
	bad, err := a.res.collect(a.slot, a.plus, params)
	if bad != finite {
		a.blame(bad)
	}
	a.err = err
	for _, g := range a.merges {
		a.res.plus(g.Into, g.From)
	}
}

// add closes the next shard: what is missing of its gradients, and its loss, come in.
func (a *accumulation) add(params []param, loss float64) {
	a.put(params, a.v.grads)
	if !a.plus {
		clear(tail(a.into))
	}
	tail(a.into)[0] += float32(loss)
	if math.IsNaN(loss) || math.IsInf(float64(float32(loss)), 0) {
		a.blame(len(params))
	}
	for _, g := range a.merges {
		plusEqual(tail(a.slots[g.Into]), tail(a.slots[g.From]))
		a.v.give(a.slots[g.From])
		a.slots[g.From] = nil
	}
	a.into, a.pulled = nil, 0
	a.at++
}

// blame records that the open shard brought a NaN or Inf in a tensor, unless an earlier shard did.
func (a *accumulation) blame(tensor int) {
	if a.badTensor == finite || a.badShard == a.at {
		a.badShard, a.badTensor = a.at, min(a.badTensor, tensor)
	}
}

// release gives all buffers back.
func (a *accumulation) release() {
	for i, b := range a.slots {
		a.v.give(b)
		a.slots[i] = nil
	}
}
