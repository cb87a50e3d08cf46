package collective

import "fmt"

// relay is the broadcast: chunks travel from the root down a tree of ranks, each forwarding a chunk as soon as it
// has it. Numbered from the root, rank v's parent is v-1 in a chain (every link carries the bytes once: for
// large buffers) or v without its lowest bit in a binomial tree (log2 world rounds: for small ones).
type relay struct {
	buf    []byte
	chunk  int
	places []*sender
}

func (r *relay) message(_, k int) []byte {
	lo := k * r.chunk
	return r.buf[lo:min(lo+r.chunk, len(r.buf))]
}

func (g *Group) broadcast(b []byte, root int) error {
	w := g.World()
	if root < 0 || root >= w {
		return fmt.Errorf("%w: broadcast from rank %d in a group of %d", ErrMisuse, root, w)
	}
	if w == 1 {
		return nil
	}
	if len(b) == 0 {
		return g.meet()
	}
	r := &g.relay
	r.buf, r.chunk, r.places = b, g.tuning.ChunkBytes, r.places[:0]
	total := (len(b) + r.chunk - 1) / r.chunk
	v := (g.Rank() - root + w) % w
	ready := 0
	if v == 0 {
		ready = total
	}
	parent := v - 1
	if len(b) <= r.chunk*(w-1) {
		parent = v & (v - 1)
		low := v & -v
		for bit := 1; (v == 0 || bit < low) && v+bit < w; bit *= 2 {
			r.places = append(r.places, g.post((v+bit+root)%w, r, ready, total))
		}
	} else if v+1 < w {
		r.places = append(r.places, g.post((v+1+root)%w, r, ready, total))
	}
	var err error
	if v != 0 {
		err = r.receive(g.tr, (parent+root)%w, total)
	}
	err = g.settle(err)
	r.buf = nil
	return err
}

func (r *relay) receive(tr Transport, parent, total int) error {
	for k := range total {
		if err := tr.Recv(parent, r.message(parent, k)); err != nil {
			return err
		}
		for _, s := range r.places {
			s.release()
		}
	}
	return nil
}
