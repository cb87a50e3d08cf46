package collective

import "github.com/farandole-ml/farandole/kernels"

// plan is one rank's part in an operation, as data: what it does itself, step by step, and what it sends to
// each peer meanwhile. It names buffers, not memory, so that it serves every later call of the same shape.
//
// The steps run one after the other on the operation's goroutine; sending goes on beside them. So a plan cannot make ranks wait in a
// circle if there is an assignment of times to the steps of all ranks such that every message is released earlier
// than it is received; docs/algorithms.md gives one for each algorithm.
//
// A rank's first step receives from its left neighbour, and the first message that it lets go is for its right one.
// Hence ranks that are at different operations find out, whatever their algorithms would have done later: somewhere
// around the circle two neighbours differ.
type plan struct {
	world, rank int
	steps       []step
	sources     []piece // of the steps
	reductions  []kernels.Reduction
	boxes       []box
	boxOf       []int16 // by rank; -1: none
	scratch     int     // bytes
	narrow      bool    // messages of float32 travel as bfloat16
}

// buffer says whose memory a piece is of.
type buffer int16

const (
	bufOut buffer = iota
	bufIn
	bufScratch
	bufToken   // bytes that mean nothing: one to send, one to receive
	bufPartial // and the following: Call.Partials
)

// piece is a byte range of a buffer.
type piece struct {
	buf    buffer
	lo, hi int
}

var tokenOut, tokenIn = piece{bufToken, 0, 1}, piece{bufToken, 1, 2}

func (p piece) len() int { return p.hi - p.lo }

// at is the piece of buf that s says.
func (s span) at(buf buffer) piece { return piece{buf, s.lo, s.hi} }

// action is what a step does.
type action uint8

const (
	actRecv    action = iota // at comes from peer
	actReduce                // at becomes the reduction of the sources
	actCopy                  // at becomes the source
	actRelease               // the next message to peer may go
	actFlush                 // wait until every message is on its way; all have been released
)

type step struct {
	do        action
	peer      int32
	reduction int32
	first     int32 // of sources
	end       int32
	at        piece
}

// box has the messages to one peer, in order.
type box struct {
	peer     int
	messages []piece
	ready    int // how many may go from the beginning
}

// reset makes p an empty plan, reusing its memory.
func (p *plan) reset(world, rank int) {
	boxOf := p.boxOf[:0]
	for range world {
		boxOf = append(boxOf, -1)
	}
	*p = plan{
		world: world, rank: rank, steps: p.steps[:0], sources: p.sources[:0],
		reductions: p.reductions[:0], boxes: p.boxes[:0], boxOf: boxOf,
	}
}

// peer is the rank by places further around the circle.
func (p *plan) peer(by int) int { return ((p.rank+by)%p.world + p.world) % p.world }

// send appends a message. Messages that may go from the beginning come before those that wait for a release.
func (p *plan) send(to int, what piece, ready bool) {
	if what.len() == 0 {
		return
	}
	b := p.box(to)
	b.messages = append(b.messages, what)
	if ready {
		b.ready++
	}
}

func (p *plan) box(to int) *box {
	if p.boxOf[to] < 0 {
		p.boxOf[to] = int16(len(p.boxes))
		if len(p.boxes) < cap(p.boxes) {
			p.boxes = p.boxes[:len(p.boxes)+1]
			b := &p.boxes[len(p.boxes)-1]
			*b = box{peer: to, messages: b.messages[:0]}
		} else {
			p.boxes = append(p.boxes, box{peer: to})
		}
	}
	return &p.boxes[p.boxOf[to]]
}

func (p *plan) recv(from int, at piece) {
	if at.len() > 0 {
		p.steps = append(p.steps, step{do: actRecv, peer: int32(from), at: at})
	}
}

func (p *plan) release(to int) {
	p.steps = append(p.steps, step{do: actRelease, peer: int32(to)})
}

func (p *plan) flush() { p.steps = append(p.steps, step{do: actFlush}) }

func (p *plan) copy(at, from piece) {
	p.steps = append(p.steps, step{do: actCopy, at: at, first: int32(len(p.sources)), end: int32(len(p.sources) + 1)})
	p.sources = append(p.sources, from)
}

// reduce makes at the reduction of srcs.
func (p *plan) reduce(reduction int, at piece, srcs ...piece) {
	if at.len() == 0 {
		return
	}
	p.steps = append(p.steps, step{
		do: actReduce, at: at, reduction: int32(reduction),
		first: int32(len(p.sources)), end: int32(len(p.sources) + len(srcs)),
	})
	p.sources = append(p.sources, srcs...)
}

// take reserves n bytes of scratch.
func (p *plan) take(n int) piece {
	lo := p.scratch
	p.scratch += (n + lineBytes - 1) / lineBytes * lineBytes
	return piece{bufScratch, lo, lo + n}
}

// part is the first n bytes of p.
func (p piece) part(n int) piece { return piece{p.buf, p.lo, p.lo + n} }

// greet makes the first step and the first message those of the circle, for algorithms that do not begin so.
func (p *plan) greet() {
	if p.world == 1 {
		return
	}
	p.send(p.peer(1), tokenOut, true)
	p.recv(p.peer(-1), tokenIn)
}

// The reductions of a plan that has one operation: as it is, and with the division at the end.
const (
	redPlain = iota
	redLast
)

// arithmetic sets redPlain and redLast.
func (p *plan) arithmetic(r kernels.Reduction) {
	last := r
	r.Divisor = 0
	p.reductions = append(p.reductions, r, last)
}
