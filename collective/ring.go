package collective

import (
	"fmt"

	"github.com/farandole-ml/farandole/kernels"
)

// ring passes segments around the ring of ranks. At step s a rank sends segment rank-s to its right neighbour and
// gets segment rank-s-1 from its left one. In the first adds steps what comes is added to what is there, so that
// after world-1 of them a rank holds one finished segment; in the other steps it replaces it. A chunk is
// sent on as soon as it has been received (Patarasuk and Yuan 2009, pipelined).
type ring struct {
	rank    int
	buf     []byte
	grid    grid
	steps   int
	adds    int
	scratch []float32
}

func (r *ring) spanAt(step, c int) span {
	w := r.grid.world
	return r.grid.chunk(((r.rank-step)%w+w)%w, c)
}

// message is the outbox of the right neighbour.
func (r *ring) message(_, k int) []byte {
	return r.spanAt(k/r.grid.chunks, k%r.grid.chunks).of(r.buf)
}

func (g *Group) runRing() error {
	r := &g.ring
	r.rank = g.Rank()
	w := r.grid.world
	right := g.post((r.rank+1)%w, r, r.grid.chunks, r.steps*r.grid.chunks)
	err := g.settle(r.receive(g.tr, (r.rank+w-1)%w, right))
	r.buf = nil
	return err
}

func (r *ring) receive(tr Transport, left int, right *sender) error {
	for step := range r.steps {
		for c := range r.grid.chunks {
			at := r.spanAt(step+1, c)
			if at.lo < at.hi {
				if err := r.take(tr, left, at, step < r.adds); err != nil {
					return err
				}
			}
			right.release()
		}
	}
	return nil
}

func (r *ring) take(tr Transport, left int, at span, adds bool) error {
	mine := at.of(r.buf)
	if !adds {
		return tr.Recv(left, mine)
	}
	in := grow(&r.scratch, len(mine)/4)
	if err := tr.Recv(left, bytesOf(in)); err != nil {
		return err
	}
	sum := floatsOf(mine)
	kernels.AddF32(sum, sum, in)
	return nil
}

func (g *Group) allReduce(b []float32) error {
	w := g.World()
	if w == 1 {
		return nil
	}
	if len(b) == 0 {
		return g.meet()
	}
	if g.tuning.isDirect(4*len(b), w-1) {
		return g.directSum(b)
	}
	r := &g.ring
	r.buf, r.steps, r.adds = bytesOf(b), 2*(w-1), w-1
	r.grid = newGrid(4*len(b), w, g.tuning.ChunkBytes)
	return g.runRing()
}

func (g *Group) allGather(out, b []byte) error {
	w := g.World()
	if len(out) != w*len(b) {
		return fmt.Errorf("%w: all-gather of %d bytes over %d ranks needs %d bytes for the result, not %d", ErrMisuse, len(b), w, w*len(b), len(out))
	}
	if len(b) == 0 {
		return g.meet()
	}
	copy(out[g.Rank()*len(b):], b)
	if w == 1 {
		return nil
	}
	if g.tuning.isDirect(len(b), w-1) {
		return g.directGather(out, len(b))
	}
	r := &g.ring
	r.buf, r.steps, r.adds = out, w-1, 0
	r.grid = newGrid(len(out), w, g.tuning.ChunkBytes)
	r.grid.unit = 1
	if len(b)%lineBytes == 0 {
		r.grid.unit = lineBytes
	}
	return g.runRing()
}
