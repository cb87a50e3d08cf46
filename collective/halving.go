package collective

import "math/bits"

// halving is recursive halving and doubling (Thakur, Rabenseifner and Gropp 2005), nearest partners first. With 2^levels
// ranks, at level k a rank and the one 2^k away each send the other the half of their block that the other keeps; after the last
// level each holds a finished segment. Then the blocks grow again in the opposite order. Because the nearest ranks
// are reduced first, the sum is that of the balanced tree over the ranks.
//
// The largest power of two not above the world takes part. Of the others each gives its buffer to a neighbour first and gets
// the result at the end.
type halving struct {
	p      *plan
	grid   grid
	chunk  int
	levels int
	extra  int   // ranks that do not take part
	v      int   // this rank among those that do; -1: none
	guest  int   // the rank whose buffer this one took; -1: none
	room   piece // for one message
}

func (p *plan) halvingDoubling(s *spec) {
	levels := bits.Len(uint(p.world)) - 1
	h := halving{p: p, chunk: s.chunk, levels: levels, extra: p.world - 1<<levels, v: p.rank - (p.world - 1<<levels), guest: -1}
	h.grid = newGrid(s.bytes, 1<<levels, s.chunk, s.size)
	p.circleUnless(p.world == 2 && h.grid.full() && s.everyRankSends())
	if p.rank < 2*h.extra {
		if h.v = p.rank / 2; p.rank%2 == 1 {
			h.beGuest(s.source(0))
			return
		}
		h.guest = p.rank + 1
	}
	h.room = p.take(max(h.grid.largest(), min(s.chunk, s.bytes)))
	h.scatter(s.source(0))
	h.gather()
}

// rank is the plan's rank of the v-th that takes part.
func (h *halving) rank(v int) int {
	if v < h.extra {
		return 2 * v
	}
	return v + h.extra
}

// block is the segments that v works on after level levels.
func block(v, level, levels int) (first, end int) {
	end = 1 << levels
	for k := range level {
		if m := (first + end) / 2; v>>k&1 == 0 {
			end = m
		} else {
			first = m
		}
	}
	return first, end
}

// pieces gives the messages that carry segments [first, end) of buf: one if that is small, else one for each chunk.
func (h *halving) pieces(buf buffer, first, end int) (out []piece) {
	whole := piece{buf, h.grid.segment(first).lo, h.grid.segment(end - 1).hi}
	if whole.len() <= h.chunk {
		return append(out, whole)
	}
	for seg := first; seg < end; seg++ {
		for c := range h.grid.chunks {
			out = append(out, h.grid.chunk(seg, c).at(buf))
		}
	}
	return out
}

// beGuest is the part of a rank that only gives and gets.
func (h *halving) beGuest(from buffer) {
	host := h.p.rank - 1
	for _, m := range h.pieces(from, 0, 1<<h.levels) {
		h.p.send(host, m, true)
	}
	for _, m := range h.results(h.v, 0) {
		h.p.recv(host, m)
	}
}

// scatter is the first half.
func (h *halving) scatter(from buffer) {
	outbox := make([][]piece, h.levels) // what goes to the partner of each level
	for k := range h.levels {
		first, end := block(h.v^1<<k, k+1, h.levels)
		outbox[k] = h.pieces(h.stage(from, k), first, end)
		for _, m := range outbox[k] {
			h.p.send(h.rank(h.v^1<<k), m, k == 0 && h.guest < 0)
		}
	}
	if h.guest >= 0 {
		for _, m := range h.pieces(bufOut, 0, 1<<h.levels) {
			h.absorb(h.guest, m, from, redPlain)
			outbox[0] = h.releaseUpTo(outbox[0], 0, m.hi)
		}
	}
	for k := range h.levels {
		first, end := block(h.v, k+1, h.levels)
		for _, m := range h.pieces(bufOut, first, end) {
			h.absorb(h.rank(h.v^1<<k), m, h.stage(from, k), lastIf(k == h.levels-1))
			if k+1 < h.levels {
				outbox[k+1] = h.releaseUpTo(outbox[k+1], k+1, m.hi)
			}
		}
	}
}

// stage is the buffer that holds a rank's own values before level k.
func (h *halving) stage(from buffer, k int) buffer {
	if k == 0 && h.guest < 0 {
		return from
	}
	return bufOut
}

// absorb reduces what comes from peer with the values in own.
func (h *halving) absorb(peer int, at piece, own buffer, reduction int) {
	if at.len() == 0 {
		return
	}
	in := h.room.part(at.len())
	h.p.recv(peer, in)
	h.p.reduce(reduction, at, piece{own, at.lo, at.hi}, in)
}

// releaseUpTo lets the messages of level k go that end at hi or before, and gives the rest. Values become ready in the order of
// their places.
func (h *halving) releaseUpTo(messages []piece, k, hi int) []piece {
	for len(messages) > 0 && messages[0].hi <= hi {
		if messages[0].len() > 0 {
			h.p.release(h.rank(h.v ^ 1<<k))
		}
		messages = messages[1:]
	}
	return messages
}

// results gives the messages that carry v's finished block of a level, in the order in which v has them.
func (h *halving) results(v, level int) []piece {
	first, end := block(v, level, h.levels)
	whole := h.pieces(bufOut, first, end)
	if len(whole) == 1 || level == h.levels {
		return whole
	}
	return append(h.results(v, level+1), h.results(v^1<<level, level+1)...)
}

// outgoing are the results that wait to go to one peer.
type outgoing struct {
	to       int
	messages []piece
}

// gather is the second half. A message goes when all bytes up to its end, in the order in which this rank gets them, are here.
func (h *halving) gather() {
	var waiting []outgoing
	for k := h.levels - 1; k >= 0; k-- {
		waiting = append(waiting, outgoing{h.rank(h.v ^ 1<<k), h.results(h.v, k+1)})
	}
	if h.guest >= 0 {
		waiting = append(waiting, outgoing{h.guest, h.results(h.v, 0)})
	}
	for _, o := range waiting {
		for _, m := range o.messages {
			h.p.send(o.to, m, false)
		}
	}
	sent := make([]int, len(waiting)) // bytes
	have := 0
	advance := func(n int) {
		have += n
		for i := range waiting {
			o := &waiting[i]
			for len(o.messages) > 0 && sent[i]+o.messages[0].len() <= have {
				if n := o.messages[0].len(); n > 0 {
					sent[i] += n
					h.p.release(o.to)
				}
				o.messages = o.messages[1:]
			}
		}
	}
	own := h.grid.segment(h.place())
	advance(own.hi - own.lo)
	for k := h.levels - 1; k >= 0; k-- {
		for _, m := range h.results(h.v^1<<k, k+1) {
			h.p.recv(h.rank(h.v^1<<k), m)
			advance(m.len())
		}
	}
}

// place is the segment that this rank finishes.
func (h *halving) place() int {
	first, _ := block(h.v, h.levels, h.levels)
	return first
}
