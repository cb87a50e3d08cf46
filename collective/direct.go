package collective

// oneRound sends every rank's sources to every other rank; each computes the whole result by itself, all in the same order.
func (p *plan) oneRound(s *spec) {
	p.circleUnless(s.everyRankSends())
	whole := span{0, s.bytes}
	for i := 1; i < p.world; i++ {
		for k := range s.sources(p.rank) {
			p.send(p.peer(i), whole.at(s.source(k)), true)
		}
	}
	room := make([][]piece, p.world)
	for i := 1; i < p.world; i++ {
		from := p.peer(-i)
		for range s.sources(from) {
			at := p.take(s.bytes)
			p.recv(from, at)
			room[from] = append(room[from], at)
		}
	}
	for k := range s.sources(p.rank) {
		room[p.rank] = append(room[p.rank], whole.at(s.source(k)))
	}
	p.flush() // the result may replace what is being sent
	p.reduce(redLast, whole.at(bufOut), concat(room)...)
}

func concat(lists [][]piece) (all []piece) {
	for _, l := range lists {
		all = append(all, l...)
	}
	return all
}

// circleUnless greets unless the plan begins as a plan must.
func (p *plan) circleUnless(natural bool) {
	if !natural {
		p.greet()
	}
}

// directReduceScatter sends every part to its owner, which reduces all in one pass.
func (p *plan) directReduceScatter(s *spec) {
	grid := partGrid(s.bytes, p.world, s.chunk, s.size)
	room := make([]piece, p.world)
	for i := 1; i < p.world; i++ {
		to := p.peer(i)
		for c := range grid.chunks {
			p.send(to, grid.chunk(to, c).at(bufIn), true)
		}
		room[to] = p.take(grid.largest())
	}
	for c := range grid.chunks {
		p.reduceFromAll(grid.chunk(0, c).at(bufOut), grid.chunk(p.rank, c).at(bufIn), room)
	}
}

// reduceFromAll receives as much as own from every other rank into its room, and reduces all into out in rank order.
func (p *plan) reduceFromAll(out, own piece, room []piece) {
	srcs := make([]piece, p.world)
	for i := 1; i < p.world; i++ {
		from := p.peer(-i)
		srcs[from] = room[from].part(own.hi - own.lo)
		p.recv(from, srcs[from])
	}
	srcs[p.rank] = own
	p.reduce(redLast, out, srcs...)
}

// directAllGather sends a rank's part to every other rank.
func (p *plan) directAllGather(s *spec) {
	n := s.bytes
	for i := 1; i < p.world; i++ {
		for k := range pieces(n, s.chunk) {
			p.send(p.peer(i), pieceAt(n, s.chunk, k).at(bufIn), true)
		}
	}
	p.copy(span{n * p.rank, n * (p.rank + 1)}.at(bufOut), span{0, n}.at(bufIn))
	p.recvParts(n, s.chunk)
}

// recvParts receives every other rank's part of n bytes, chunk by chunk, where it belongs in the result.
func (p *plan) recvParts(n, chunk int) {
	for i := 1; i < p.world; i++ {
		from := p.peer(-i)
		for k := range pieces(n, chunk) {
			at := pieceAt(n, chunk, k)
			p.recv(from, piece{bufOut, n*from + at.lo, n*from + at.hi})
		}
	}
}

// directAllToAll exchanges parts with every other rank: in round i with those i places away.
func (p *plan) directAllToAll(s *spec) {
	n := s.bytes / p.world
	from := piece{bufIn, 0, s.bytes}
	if s.inPlace {
		from = p.take(s.bytes)
		p.copy(from, piece{bufIn, 0, s.bytes})
	}
	place := func(rank int, at span) piece {
		return piece{from.buf, from.lo + n*rank + at.lo, from.lo + n*rank + at.hi}
	}
	for i := 1; i < p.world; i++ {
		for k := range pieces(n, s.chunk) {
			p.send(p.peer(i), place(p.peer(i), pieceAt(n, s.chunk, k)), !s.inPlace)
			if s.inPlace {
				p.release(p.peer(i))
			}
		}
	}
	p.copy(span{n * p.rank, n * (p.rank + 1)}.at(bufOut), place(p.rank, span{0, n}))
	p.recvParts(n, s.chunk)
}

// directBroadcast sends everything from the root to every other rank.
func (p *plan) directBroadcast(s *spec) {
	p.greet()
	for k := range pieces(s.bytes, s.chunk) {
		at := pieceAt(s.bytes, s.chunk, k).at(bufOut)
		if p.rank != s.root {
			p.recv(s.root, at)
			continue
		}
		for i := 1; i < p.world; i++ {
			p.send(p.peer(i), at, true)
		}
	}
}

// directReduce sends everything to the root, which reduces all in one pass.
func (p *plan) directReduce(s *spec) {
	p.greet()
	room := make([]piece, p.world)
	for i := 1; i < p.world && p.rank == s.root; i++ {
		room[p.peer(-i)] = p.take(min(s.chunk, s.bytes))
	}
	for k := range pieces(s.bytes, s.chunk) {
		at := pieceAt(s.bytes, s.chunk, k)
		if p.rank == s.root {
			p.reduceFromAll(at.at(bufOut), at.at(bufIn), room)
		} else {
			p.send(s.root, at.at(bufIn), true)
		}
	}
}

// dissemination is the dissemination barrier (Hensgen, Finkel and Manber 1988): in round i a rank tells the rank 2^i
// further that it, and all that it has heard of, have arrived. It takes ceil(log2 world) rounds. An operation on empty
// buffers is a barrier too, so that a rank whose buffer is not empty is found out.
func (p *plan) dissemination() {
	for d := 1; d < p.world; d *= 2 {
		p.send(p.peer(d), tokenOut, d == 1)
		if d > 1 {
			p.release(p.peer(d))
		}
		p.recv(p.peer(-d), tokenIn)
	}
}
