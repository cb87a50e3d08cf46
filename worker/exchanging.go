package worker

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/farandole-ml/farandole/collective"
	"github.com/farandole-ml/farandole/kernels"
)

// exchanging is the way of ranks that send each other what is needed, from device to device. Everything is in the order of the device's own operations, so
// that no barrier is needed: a slot that was sent may be written, and what was received is there for the next addition.
type exchanging struct {
	x            kernels.Exchange
	inbox        [][]kernels.Buffer // by rank and slot: the partials of one chunk of this rank's part; empty for this rank
	sends, recvs []kernels.Message
}

func (w *exchanging) says() string { return "gradients are reduced between GPUs by NCCL" }

// reserve allocates the inbox.
func (w *exchanging) reserve(dev kernels.Device, t *team) error {
	own := t.parts[t.rank]
	w.inbox = make([][]kernels.Buffer, len(t.parts))
	for rank, n := range t.partials {
		for range n {
			if rank == t.rank || own.hi == own.lo {
				continue
			}
			b, err := dev.Alloc(min(own.hi-own.lo, t.chunk))
			if err != nil {
				return err
			}
			w.inbox[rank] = append(w.inbox[rank], b)
		}
	}
	return nil
}

func (w *exchanging) leave(kernels.Device) error {
	if w.x == nil {
		return nil
	}
	return w.x.Close()
}

func (w *exchanging) swap() {} // nobody has the slots by an address

func (w *exchanging) theirs(at place, p part) kernels.Buffer {
	return w.inbox[at.rank][at.slot].Slice(0, p.hi-p.lo)
}

// reduce has each chunk of the parts go to its owner, and then each part from its owner to all.
func (w *exchanging) reduce(ctx context.Context, r *residence, _ *collective.Group) error {
	t := &r.team
	for i := range t.pieces() {
		w.gather(r, i)
		if err := w.x.Swap(ctx, w.sends, w.recvs); err != nil {
			return err
		}
		if own := t.piece(t.rank, i); own.hi > own.lo {
			r.addPart(own)
		}
	}
	w.spread(r)
	if err := w.x.Swap(ctx, w.sends, w.recvs); err != nil {
		return err
	}
	return w.x.Sync(ctx)
}

// gather lists what is sent to have each owner get everybody's partials of chunk i of its part.
func (w *exchanging) gather(r *residence, i int) {
	t := &r.team
	w.sends, w.recvs = w.sends[:0], w.recvs[:0]
	for rank := range t.parts {
		if rank == t.rank {
			continue
		}
		if p := t.piece(rank, i); p.hi > p.lo {
			for slot := range t.partials[t.rank] {
				w.sends = append(w.sends, kernels.Message{Peer: rank, Buffer: r.values(place{t.rank, slot}, p)})
			}
		}
		if p := t.piece(t.rank, i); p.hi > p.lo {
			for slot := range t.partials[rank] {
				w.recvs = append(w.recvs, kernels.Message{Peer: rank, Buffer: w.theirs(place{rank, slot}, p)})
			}
		}
	}
}

// spread lists what is sent to have everybody get each owner's part.
func (w *exchanging) spread(r *residence) {
	t := &r.team
	w.sends, w.recvs = w.sends[:0], w.recvs[:0]
	for rank, p := range t.parts {
		if rank == t.rank {
			continue
		}
		if own := t.parts[t.rank]; own.hi > own.lo {
			w.sends = append(w.sends, kernels.Message{Peer: rank, Buffer: r.values(place{t.rank, 0}, own)})
		}
		if p.hi > p.lo {
			w.recvs = append(w.recvs, kernels.Message{Peer: rank, Buffer: r.values(place{t.rank, 0}, p)})
		}
	}
}

// join makes this rank one of the exchange, and has all ranks send each other a number: connections are made by what is sent first, and
// what cannot be connected has to show before a step depends on it.
func (w *exchanging) join(ctx context.Context, r *residence, id []byte) error {
	rank, world := r.team.rank, len(r.team.parts)
	x, err := r.dev.(kernels.Exchanger).JoinExchange(ctx, id, rank, world)
	if err != nil {
		return err
	}
	w.x = x
	b, err := r.dev.Alloc(2 * world)
	if err != nil {
		return err
	}
	values := make([]float32, 2*world) // to each rank, then from each
	for to := range world {
		values[to] = sample(rank, to, world)
	}
	r.dev.Upload(b, values)
	w.sends, w.recvs = nil, nil
	for peer := range world {
		if peer != rank {
			w.sends = append(w.sends, kernels.Message{Peer: peer, Buffer: b.Slice(peer, 1)})
			w.recvs = append(w.recvs, kernels.Message{Peer: peer, Buffer: b.Slice(world+peer, 1)})
		}
	}
	if err := x.Swap(ctx, w.sends, w.recvs); err != nil {
		return err
	}
	if err := x.Sync(ctx); err != nil {
		return err
	}
	if err := r.dev.Download(values, b); err != nil {
		return err
	}
	for from := range world {
		if got, want := values[world+from], sample(from, rank, world); from != rank && got != want {
			return fmt.Errorf("%s: a first message from rank %d was %g and not %g", r.dev.Name(), from, got, want)
		}
	}
	return nil
}

// sample is what a rank sends another one first: no two the same.
func sample(from, to, world int) float32 { return float32(1 + from*world + to) }

// exchangePatience is how long, × Liveness, the ranks of an exchange have to find each other: less than after which a group without progress is
// formed again.
const exchangePatience = 20

var (
	errNoExchange = errors.New("its device sends nothing to others")
	errWhole      = errors.New("NCCL would send all 32 bits of a value, where --wire bf16 asks for 16")
	errNotFound   = errors.New("the ranks have not found each other in time: does a firewall keep them apart, or NCCL_SOCKET_IFNAME name a network that not all have?")
)

// place names the device, if it may be in an exchange.
func (r *residence) place() ([]byte, error) {
	dev, ok := r.dev.(kernels.Exchanger)
	switch {
	case r.mode == GPUReduceIPC:
		return nil, errUnasked(r.mode)
	case r.round:
		return nil, errWhole
	case !ok:
		return nil, errNoExchange
	case r.barred != nil:
		return nil, r.barred
	}
	at, err := dev.Place()
	if err == nil && (len(at) == 0 || len(at) > kernels.MaxHandle) {
		err = fmt.Errorf("%s has a name of %d bytes: 1 to %d are possible", dev.Name(), len(at), kernels.MaxHandle)
	}
	return at, err
}

// exchange makes room for g's gradients on the device, and has the ranks join an exchange. Its results are those of house. Who is alive
// and cannot join is not asked again in this process: the next generation would wait as long.
func (s *Session) exchange(g *generation) (by int, refused, err error) {
	r, w := s.res, &exchanging{}
	at, err := r.place()
	if err == nil {
		if err = r.reserve(g.view.Ranges[g.rank], s.plan.Shards); err == nil {
			err = r.team.reserve(r.dev)
		}
		if err == nil {
			err = w.reserve(r.dev, &r.team)
		}
	}
	all, by, refused, err := s.vote(g, [][]byte{at}, err)
	if err != nil || refused != nil {
		return by, refused, err
	}
	if by, refused = onePlace(all); refused != nil {
		return by, refused, nil
	}
	var ids [][]byte
	if g.rank == 0 {
		var id []byte
		id, err = r.dev.(kernels.Exchanger).NewExchange()
		ids = [][]byte{id}
	}
	all, by, refused, err = s.vote(g, ids, err)
	if err != nil || refused != nil {
		return by, refused, err
	}
	ctx, cancel := context.WithTimeoutCause(g.ctx, exchangePatience*s.cfg.Liveness, errNotFound)
	defer cancel()
	r.team.way = w
	err = w.join(ctx, r, all[0][0])
	if g.ctx.Err() != nil {
		return nobody, nil, context.Cause(g.ctx)
	}
	_, by, refused, err = s.vote(g, nil, err)
	if refused != nil {
		r.barred = fmt.Errorf("NCCL has failed before: %w", refused)
	}
	return by, refused, err
}

// onePlace gives the second rank of a place that two ranks have, and what is wrong with it.
func onePlace(all [][][]byte) (by int, refused error) {
	for rank := range all {
		for other := range rank {
			if bytes.Equal(all[rank][0], all[other][0]) {
				return rank, fmt.Errorf("ranks %d and %d are on one GPU, and NCCL has one rank on each", other, rank)
			}
		}
	}
	return nobody, nil
}
