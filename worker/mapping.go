package worker

import (
	"context"

	"github.com/farandole-ml/farandole/collective"
	"github.com/farandole-ml/farandole/kernels"
)

// mapping is the way of ranks that read each other's memory where it is. A rank writes its own memory alone.
//
// Who reads what while whom may write:
//   - Partials lie still from the first barrier to the second, but for each rank's own part of its first slot, which nobody else reads.
//   - The sums, in the first slots, lie still from the second barrier on. The first slot then becomes the kept one, and is written by no
//     shard before the next step's sum is complete: every rank passed two barriers of that step, so it has read all.
type mapping struct {
	peers    [][]kernels.Buffer // by rank: the first slot, the kept one, slots of further partials; empty for this rank
	imported []kernels.Buffer
}

func (w *mapping) says() string { return "gradients are reduced in the memory of GPUs" }

// enter imports what the peers of rank offer. After an error leave is due.
func (w *mapping) enter(dev kernels.Sharer, rank int, offers [][][]byte) error {
	w.peers = make([][]kernels.Buffer, len(offers))
	for from, handles := range offers {
		if from == rank {
			continue
		}
		for _, h := range handles {
			b, err := dev.Import(h)
			if err != nil {
				return err
			}
			w.imported = append(w.imported, b)
			w.peers[from] = append(w.peers[from], b)
		}
	}
	return nil
}

// leave closes all that was imported, and gives the first error.
func (w *mapping) leave(dev kernels.Device) (err error) {
	for _, b := range w.imported {
		if e := dev.(kernels.Sharer).Release(b); err == nil {
			err = e
		}
	}
	return err
}

func (w *mapping) swap() {
	for _, b := range w.peers {
		if len(b) > 0 {
			b[0], b[1] = b[1], b[0]
		}
	}
}

func (w *mapping) theirs(at place, p part) kernels.Buffer {
	b := w.peers[at.rank][0]
	if at.slot > 0 {
		b = w.peers[at.rank][at.slot+1]
	}
	return b.Slice(p.lo, p.hi-p.lo)
}

func (w *mapping) reduce(ctx context.Context, r *residence, g *collective.Group) error {
	meet := func() error {
		if err := r.dev.Sync(); err != nil {
			return err
		}
		return g.Barrier(ctx)
	}
	if err := meet(); err != nil {
		return err
	}
	t := &r.team
	for i := range t.pieces() {
		if p := t.piece(t.rank, i); p.hi > p.lo {
			r.addPart(p)
		}
	}
	if err := meet(); err != nil {
		return err
	}
	for rank, p := range t.parts {
		if rank != t.rank && p.hi > p.lo {
			r.dev.Copy(r.values(place{t.rank, 0}, p), r.values(place{rank, 0}, p))
		}
	}
	return r.dev.Sync()
}
