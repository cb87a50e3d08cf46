//go:build linux

package shm

import "github.com/farandole-ml/farandole/collective"

// stageIn copies what peers need of block i of this rank's arrays into its slot for the next meeting.
func (t *member) stageIn(i int) {
	k := &t.task
	slot := t.own.slot[t.stage()]
	lo, hi := k.span(i)
	switch k.op.Kind {
	case collective.OpAllReduce, collective.OpReduce:
		t.stageFor(slot, k.in[lo:hi])
	case collective.OpReduceTree:
		for n, p := range k.partials {
			t.stageFor(slot[n*k.block:], bytesOf(p.Data)[lo:hi])
		}
	case collective.OpAllGather:
		t.stores.copy(slot, k.in[lo:hi])
	case collective.OpBroadcast:
		if k.root == t.id.Rank {
			t.stores.copy(slot, k.out[lo:hi])
		}
	case collective.OpReduceScatter, collective.OpAllToAll:
		for r, p := range t.peers {
			if p != nil {
				p.stores.copy(slot[r*k.block:], k.in[r*k.bytes+lo:r*k.bytes+hi])
			}
		}
	}
}

// stageFor copies a block that is to be reduced, without the part that only this rank reads.
func (t *member) stageFor(slot, block []byte) {
	if t.task.isDirect(len(t.peers)) {
		copy(slot, block)
		return
	}
	for r, p := range t.peers {
		if p != nil {
			a, b := t.part(len(block), r)
			p.stores.copy(slot[a:], block[a:b])
		}
	}
}

// staged makes k.srcs the sources of all ranks for bytes [a,b) of the block at lo, which all have staged at place q.
func (t *member) staged(q uint32, lo, a, b int) {
	k := &t.task
	k.srcs = k.srcs[:0]
	for r := range t.peers {
		slot := t.segment(r).slot[q]
		switch {
		case k.op.Kind == collective.OpReduceTree:
			for n := range k.plan.counts[r] {
				if r == t.id.Rank {
					k.srcs = append(k.srcs, bytesOf(k.partials[n].Data)[lo+a:lo+b])
				} else {
					k.srcs = append(k.srcs, slot[n*k.block+a:n*k.block+b])
				}
			}
		case r == t.id.Rank:
			k.srcs = append(k.srcs, k.in[lo+a:lo+b])
		default:
			k.srcs = append(k.srcs, slot[a:b])
		}
	}
}

// reduceStaged goes on after the meeting at which all have staged block 0. At the meeting after that a rank offers the result of its part
// of block 0, and has staged block 1; and so on.
func (t *member) reduceStaged() error {
	k := &t.task
	all := k.op.Kind != collective.OpReduce
	for i := 0; ; i++ {
		q := t.count & 1
		if i < k.blocks {
			lo, hi := k.span(i)
			a, b := t.part(hi-lo, t.id.Rank)
			t.staged(q, lo, a, b)
			if all || k.root == t.id.Rank {
				k.dsts = append(k.dsts[:0], k.out[lo+a:lo+b])
			} else {
				k.dsts = append(k.dsts[:0], t.own.result[q^1][:b-a])
			}
			k.red.Run(k.dsts, k.srcs)
			if all && len(t.peers) > 1 {
				t.stores.copy(t.own.result[q^1], k.dsts[0])
			}
		}
		if i > 0 && (all || k.root == t.id.Rank) {
			t.collect(i-1, q)
		}
		if i == k.blocks {
			return nil
		}
		if i+1 < k.blocks {
			t.stageIn(i + 1)
		}
		if err := t.meet(&k.op); err != nil {
			return err
		}
	}
}

// collect copies the other ranks' results of block i, which are at place q, into out.
func (t *member) collect(i int, q uint32) {
	k := &t.task
	lo, hi := k.span(i)
	world := len(t.peers)
	for n := 1; n < world; n++ {
		r := (t.id.Rank + n) % world
		a, b := t.part(hi-lo, r)
		copy(k.out[lo+a:lo+b], t.peers[r].seg.result[q])
	}
}

// exchangeStaged goes on after the meeting at which all have staged block 0, for operations whose results go to one rank each.
func (t *member) exchangeStaged() error {
	k := &t.task
	for i := range k.blocks {
		t.stageOut(i)
		if i+1 < k.blocks {
			t.stageIn(i + 1)
			if err := t.meet(&k.op); err != nil {
				return err
			}
		}
	}
	return nil
}

// stageOut makes the results of block i, which all ranks have staged for the current meeting.
func (t *member) stageOut(i int) {
	k := &t.task
	q := t.count & 1
	me := t.id.Rank
	lo, hi := k.span(i)
	switch k.op.Kind {
	case collective.OpBroadcast:
		if me != k.root {
			copy(k.out[lo:hi], t.peers[k.root].seg.slot[q])
		}
	case collective.OpReduceScatter:
		k.srcs = k.srcs[:0]
		for r := range t.peers {
			if r == me {
				k.srcs = append(k.srcs, k.in[me*k.bytes+lo:me*k.bytes+hi])
			} else {
				k.srcs = append(k.srcs, t.peers[r].seg.slot[q][me*k.block:me*k.block+hi-lo])
			}
		}
		k.dsts = append(k.dsts[:0], k.out[lo:hi])
		k.red.Run(k.dsts, k.srcs)
	case collective.OpAllGather, collective.OpAllToAll:
		from := 0
		mine := k.in
		if k.op.Kind == collective.OpAllToAll {
			from, mine = me*k.block, k.in[me*k.bytes:]
		}
		for n := range t.peers {
			r := (me + n) % len(t.peers)
			dst := k.out[r*k.bytes+lo : r*k.bytes+hi]
			if r == me {
				copy(dst, mine[lo:hi])
			} else {
				copy(dst, t.peers[r].seg.slot[q][from:])
			}
		}
	}
}
