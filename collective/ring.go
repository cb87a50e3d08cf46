package collective

// ringAllReduce passes segments around the ring of ranks. At step s a rank sends segment rank-s to its right neighbour and
// gets segment rank-s-1 from its left one. In the first world-1 steps what comes is reduced with what is there, so that
// after them a rank holds one finished segment; in the other steps it replaces it. A chunk is sent on as
// soon as it has been received (Patarasuk and Yuan 2009, pipelined).
func (p *plan) ringAllReduce(s *spec) {
	w, grid := p.world, newGrid(s.bytes, p.world, s.chunk, s.size)
	if !grid.full() {
		p.greet()
	}
	left, right, steps := p.peer(-1), p.peer(1), 2*(w-1)
	for step := range steps {
		from := bufOut
		if step == 0 {
			from = bufIn
		}
		for c := range grid.chunks {
			p.send(right, grid.chunk(p.peer(-step), c).at(from), step == 0)
		}
	}
	room := p.take(grid.largest())
	for step := range steps {
		for c := range grid.chunks {
			at := grid.chunk(p.peer(-step-1), c)
			if at.lo == at.hi {
				continue
			}
			if step < w-1 {
				in := room.part(at.hi - at.lo)
				p.recv(left, in)
				p.reduce(lastIf(step == w-2), at.at(bufOut), at.at(bufIn), in)
			} else {
				p.recv(left, at.at(bufOut))
			}
			if step+1 < steps {
				p.release(right)
			}
		}
	}
}

// ringReduceScatter is the first half of ringAllReduce, begun one segment earlier, so that a rank ends with its own one. What
// is on its way is kept apart, because the input stays as it is.
func (p *plan) ringReduceScatter(s *spec) {
	w, grid := p.world, partGrid(s.bytes, p.world, s.chunk, s.size)
	left, right := p.peer(-1), p.peer(1)
	room := p.take(grid.largest())
	for c := range grid.chunks {
		p.send(right, grid.chunk(left, c).at(bufIn), true)
	}
	for step := range w - 1 {
		onward := piece{}
		if step < w-2 {
			onward = p.take(s.bytes)
		}
		for c := range grid.chunks {
			at := grid.chunk(p.peer(-step-2), c)
			in, own := room.part(at.hi-at.lo), at.at(bufIn)
			at = grid.chunk(0, c) // the place inside a segment
			p.recv(left, in)
			if step == w-2 {
				p.reduce(redLast, at.at(bufOut), own, in)
				continue
			}
			sum := piece{bufScratch, onward.lo + at.lo, onward.lo + at.hi}
			p.reduce(redPlain, sum, own, in)
			p.send(right, sum, false)
			p.release(right)
		}
	}
}

// ringAllGather is the second half of ringAllReduce.
func (p *plan) ringAllGather(s *spec) {
	w, grid := p.world, partGrid(s.bytes, p.world, s.chunk, s.size)
	left, right := p.peer(-1), p.peer(1)
	for step := range w - 1 {
		for c := range grid.chunks {
			if step == 0 {
				p.send(right, grid.chunk(0, c).at(bufIn), true)
			} else {
				p.send(right, grid.chunk(p.peer(-step), c).at(bufOut), false)
			}
		}
	}
	p.copy(grid.segment(p.rank).at(bufOut), piece{bufIn, 0, s.bytes})
	for step := range w - 1 {
		for c := range grid.chunks {
			p.recv(left, grid.chunk(p.peer(-step-1), c).at(bufOut))
			if step < w-2 {
				p.release(right)
			}
		}
	}
}

// lastIf is redLast for the reduction that finishes an element, and redPlain for others.
func lastIf(last bool) int {
	if last {
		return redLast
	}
	return redPlain
}
