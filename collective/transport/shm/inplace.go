//go:build linux

package shm

import (
	"unsafe"

	"github.com/farandole-ml/farandole/collective"
)

// inPlaceBytes is how much of an array is reduced or copied between two looks at whether the group is over.
const inPlaceBytes = 256 << 10

// locateAll says where those of this rank's arrays are that peers must touch for the operation to be done in place, if they can.
func (t *member) locateAll() (in, out place, ok bool) {
	k := &t.task
	switch k.op.Kind {
	case collective.OpAllReduce:
		if in, ok = t.locate(k.in); ok {
			out, ok = t.locate(k.out)
		}
	case collective.OpReduce:
		if in, ok = t.locate(k.in); ok && k.root == t.id.Rank {
			out, ok = t.locate(k.out)
		}
	case collective.OpReduceScatter, collective.OpAllGather:
		in, ok = t.locate(k.in)
	case collective.OpAllToAll:
		if unsafe.SliceData(k.in) != unsafe.SliceData(k.out) { // else a rank would overwrite what another has not read
			in, ok = t.locate(k.in)
		}
	case collective.OpBroadcast:
		if ok = true; k.root == t.id.Rank {
			out, ok = t.locate(k.out)
		}
	case collective.OpReduceTree:
		out, ok = t.locate(k.out)
		ok = ok && t.locatePartials()
	}
	return in, out, ok
}

// locatePartials publishes the places of the partials with the next meeting, if they all have one.
func (t *member) locatePartials() bool {
	places := t.own.places[t.stage()]
	if len(t.task.partials) > len(places) {
		return false
	}
	for i, p := range t.task.partials {
		var ok bool
		if places[i], ok = t.locate(bytesOf(p.Data)); !ok {
			return false
		}
	}
	return true
}

// inPlace goes on after the meeting at which all have said where their arrays are. It ends with a meeting, after which nobody touches
// them any more.
func (t *member) inPlace() error {
	if err := t.findAll(); err != nil {
		return err
	}
	k := &t.task
	var err error
	switch k.op.Kind {
	case collective.OpAllReduce, collective.OpReduceTree, collective.OpReduce:
		lo, hi := t.part(k.bytes, t.id.Rank)
		err = t.reduceInPlace(lo, hi)
	case collective.OpReduceScatter:
		err = t.reduceInPlace(0, k.bytes)
	case collective.OpAllGather, collective.OpAllToAll:
		for n := range t.peers {
			r := (t.id.Rank + n) % len(t.peers)
			if err = t.copyInPlace(k.out[r*k.bytes:(r+1)*k.bytes], k.ins[r]); err != nil {
				break
			}
		}
	case collective.OpBroadcast:
		if k.root != t.id.Rank {
			err = t.copyInPlace(k.out, k.outs[0])
		}
	}
	clear(k.ins)
	clear(k.outs)
	if err != nil {
		return err
	}
	return t.meet(&k.op)
}

// findAll makes k.ins what this rank reads, of all ranks, and k.outs what it writes.
func (t *member) findAll() error {
	k := &t.task
	k.ins, k.outs = k.ins[:0], k.outs[:0]
	for r := range t.peers {
		l := t.line(r)
		ok := true
		switch k.op.Kind {
		case collective.OpAllReduce:
			ok = t.find(&k.ins, r, l.inPlace(), k.in, 0, k.bytes) && t.find(&k.outs, r, l.outPlace(), k.out, 0, k.bytes)
		case collective.OpReduce:
			ok = t.find(&k.ins, r, l.inPlace(), k.in, 0, k.bytes) && (r != k.root || t.find(&k.outs, r, l.outPlace(), k.out, 0, k.bytes))
		case collective.OpReduceScatter, collective.OpAllToAll:
			ok = t.find(&k.ins, r, l.inPlace(), k.in, t.id.Rank*k.bytes, k.bytes)
		case collective.OpAllGather:
			ok = t.find(&k.ins, r, l.inPlace(), k.in, 0, k.bytes)
		case collective.OpBroadcast:
			ok = r != k.root || t.find(&k.outs, r, l.outPlace(), k.out, 0, k.bytes)
		case collective.OpReduceTree:
			ok = t.find(&k.outs, r, l.outPlace(), k.out, 0, k.bytes)
			for i := range k.plan.counts[r] {
				var own []byte
				if r == t.id.Rank {
					own = bytesOf(k.partials[i].Data)
				}
				ok = ok && t.find(&k.ins, r, t.segment(r).places[t.count&1][i%maxPlaces], own, 0, k.bytes)
			}
		}
		if !ok {
			return t.corrupt(r, "it says that an array is where it has no registered memory")
		}
	}
	if k.op.Kind == collective.OpReduceScatter {
		k.outs = append(k.outs, k.out)
	}
	return nil
}

// find appends n bytes, from byte offset, of the array that rank r says is at where; own is this rank's array.
func (t *member) find(list *[][]byte, r int, where place, own []byte, offset, n int) bool {
	if r != t.id.Rank {
		where.offset += uint64(offset)
		own = t.peers[r].at(where, n)
	} else {
		own = own[offset : offset+n]
	}
	*list = append(*list, own)
	return own != nil || n == 0
}

// reduceInPlace reduces bytes [lo,hi) of k.ins into k.outs. Every second operation goes from the end, because what was touched last is
// still in the caches.
func (t *member) reduceInPlace(lo, hi int) error {
	k := &t.task
	blocks := (hi - lo + inPlaceBytes - 1) / inPlaceBytes
	k.red.Footprint = len(t.peers) * (hi - lo) * (len(k.ins) + len(k.outs)) // of all ranks: they share the caches
	for i := range blocks {
		if t.aborted() {
			return t.cause()
		}
		if k.op.Seq&1 != 0 {
			i = blocks - 1 - i
		}
		a := lo + i*inPlaceBytes
		b := min(a+inPlaceBytes, hi)
		k.srcs = slicesOf(k.srcs[:0], k.ins, a, b)
		k.dsts = slicesOf(k.dsts[:0], k.outs, a, b)
		k.red.Run(k.dsts, k.srcs)
	}
	return nil
}

func slicesOf(list, arrays [][]byte, a, b int) [][]byte {
	for _, x := range arrays {
		list = append(list, x[a:b])
	}
	return list
}

func (t *member) copyInPlace(dst, src []byte) error {
	if unsafe.SliceData(dst) == unsafe.SliceData(src) {
		return nil
	}
	for lo := 0; lo < len(dst); lo += inPlaceBytes {
		if t.aborted() {
			return t.cause()
		}
		copy(dst[lo:min(lo+inPlaceBytes, len(dst))], src[lo:])
	}
	return nil
}
