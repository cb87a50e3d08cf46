package collective

import "math/bits"

// chain and binomial place rank v, numbered from the root, in a tree: the parent is v-1 in a chain (every link carries the bytes
// once), or v without its lowest bit in a binomial tree (log2 world rounds).
func (p *plan) place(s *spec, chain bool) (v, parent int, children []int) {
	w := p.world
	v = (p.rank - s.root + w) % w
	real := func(v int) int { return (v + s.root) % w }
	if chain {
		if v+1 < w {
			children = append(children, real(v+1))
		}
		return v, real(v - 1 + w), children
	}
	for bit := 1; (v == 0 || bit < v&-v) && v+bit < w; bit *= 2 {
		children = append(children, real(v+bit))
	}
	return v, real(v & (v - 1)), children
}

// relayBroadcast lets chunks travel from the root down a tree, each rank forwarding a chunk as soon as it has it.
func (p *plan) relayBroadcast(s *spec, chain bool) {
	p.greet()
	v, parent, children := p.place(s, chain)
	for k := range pieces(s.bytes, s.chunk) {
		at := pieceAt(s.bytes, s.chunk, k).at(bufOut)
		for _, c := range children {
			p.send(c, at, v == 0)
		}
		if v == 0 {
			continue
		}
		p.recv(parent, at)
		for _, c := range children {
			p.release(c)
		}
	}
}

// relayReduce is relayBroadcast the other way: a rank reduces its own chunk with those of its children and sends it up.
// What is on its way is kept apart, because only the root's result is written.
func (p *plan) relayReduce(s *spec, chain bool) {
	p.greet()
	v, parent, children := p.place(s, chain)
	srcs := make([]piece, 1+len(children))
	var room []piece
	for range children {
		room = append(room, p.take(min(s.chunk, s.bytes)))
	}
	onward := piece{}
	if v != 0 && len(children) > 0 {
		onward = p.take(s.bytes)
	}
	for k := range pieces(s.bytes, s.chunk) {
		at := pieceAt(s.bytes, s.chunk, k)
		if len(children) == 0 {
			p.send(parent, at.at(bufIn), true)
			continue
		}
		srcs[0] = at.at(bufIn)
		for i, c := range children {
			srcs[1+i] = room[i].part(at.hi - at.lo)
			p.recv(c, srcs[1+i])
		}
		if v == 0 {
			p.reduce(redLast, at.at(bufOut), srcs...)
			continue
		}
		sum := piece{bufScratch, onward.lo + at.lo, onward.lo + at.hi}
		p.reduce(redPlain, sum, srcs...)
		p.send(parent, sum, false)
		p.release(parent)
	}
}

// pipelineSteps is how many chunks a binary tree cuts a buffer into at least, so that its levels work at the same time.
const pipelineSteps = 8

// treeAllReduce reduces chunks up a binary tree and sends them down again. Rank r's children are 2r+1 and 2r+2. With H the
// tree's height, chunk c is reduced at time c+H-depth and comes down at time c+H+depth; a rank does what it
// does in the order of these times, so that it never waits for one that waits for it.
func (p *plan) treeAllReduce(s *spec) {
	p.greet()
	depth, height := bits.Len(uint(p.rank+1))-1, bits.Len(uint(p.world))-1
	parent := (p.rank - 1) / 2
	var children []int
	for c := 2*p.rank + 1; c <= 2*p.rank+2 && c < p.world; c++ {
		children = append(children, c)
	}
	chunk := min(s.chunk, max(s.bytes/pipelineSteps/lineBytes*lineBytes, 16<<10))
	chunks := pieces(s.bytes, chunk)
	srcs := make([]piece, 1+len(children))
	var room []piece
	for range children {
		room = append(room, p.take(min(chunk, s.bytes)))
	}
	for k := range chunks {
		at := pieceAt(s.bytes, chunk, k)
		if depth > 0 && len(children) == 0 {
			p.send(parent, at.at(bufIn), true)
		} else if depth > 0 {
			p.send(parent, at.at(bufOut), false)
		}
		for _, c := range children {
			p.send(c, at.at(bufOut), false)
		}
	}
	for t := range chunks + 2*height {
		if k := t - (height - depth); k >= 0 && k < chunks && len(children) > 0 {
			at := pieceAt(s.bytes, chunk, k)
			srcs[0] = at.at(bufIn)
			for i, c := range children {
				srcs[1+i] = room[i].part(at.hi - at.lo)
				p.recv(c, srcs[1+i])
			}
			p.reduce(lastIf(depth == 0), at.at(bufOut), srcs...)
			if depth > 0 {
				p.release(parent)
			} else {
				p.releaseAll(children)
			}
		}
		if k := t - height - depth; k >= 0 && k < chunks && depth > 0 {
			p.recv(parent, pieceAt(s.bytes, chunk, k).at(bufOut))
			p.releaseAll(children)
		}
	}
}

func (p *plan) releaseAll(peers []int) {
	for _, to := range peers {
		p.release(to)
	}
}
