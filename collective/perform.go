package collective

import (
	"unsafe"

	"github.com/farandole-ml/farandole/kernels"
)

// memory is the running operation's buffers.
type memory struct {
	bufs     [bufPartial][]byte
	partials []Partial
	room     []byte // what scratch is cut from
	raw      []byte // what a narrow message is received into
	token    [2]byte
	srcs     [][]byte
	dsts     [1][]byte
}

func (m *memory) bytes(p piece) []byte {
	if p.buf >= bufPartial {
		return Of(m.partials[p.buf-bufPartial].Data).Data[p.lo:p.hi]
	}
	return m.bufs[p.buf][p.lo:p.hi]
}

// load makes m the memory of c, with scratch bytes of scratch.
func (m *memory) load(c *Call, scratch int) {
	if len(m.room) < scratch+lineBytes {
		m.room = make([]byte, scratch+lineBytes)
	}
	skip := -int(uintptr(unsafe.Pointer(&m.room[0]))) & (lineBytes - 1)
	m.bufs = [bufPartial][]byte{c.Out.Data, c.In.Data, m.room[skip : skip+scratch], m.token[:]}
	m.partials = c.Partials
}

// drop forgets the caller's memory.
func (m *memory) drop() {
	m.bufs = [bufPartial][]byte{}
	m.partials = nil
	clear(m.srcs[:cap(m.srcs)])
	m.dsts[0] = nil
}

// grow makes *b hold n bytes, reusing its memory.
func grow(b *[]byte, n int) []byte {
	if cap(*b) < n {
		*b = make([]byte, n)
	}
	return (*b)[:n]
}

// perform runs p for c.
func (g *Group) perform(p *plan, c *Call) error {
	m := &g.memory
	m.load(c, p.scratch)
	for i := range p.boxes {
		g.post(g.peer(p.boxes[i].peer), &p.boxes[i], p.narrow)
	}
	var err error
	for i := range p.steps {
		if err = g.step(p, &p.steps[i]); err != nil {
			break
		}
	}
	err = g.settle(err)
	m.drop()
	return err
}

func (g *Group) step(p *plan, s *step) error {
	m := &g.memory
	switch s.do {
	case actRecv:
		return g.receive(g.peer(int(s.peer)), s.at, p.narrow)
	case actRelease:
		g.out[g.peer(int(s.peer))].release()
	case actReduce:
		m.reduce(&p.reductions[s.reduction], s.at, p.sources[s.first:s.end])
	case actCopy:
		to, from := m.bytes(s.at), m.bytes(p.sources[s.first])
		if unsafe.SliceData(to) != unsafe.SliceData(from) {
			copy(to, from)
		}
	case actFlush:
		return g.flush()
	}
	return nil
}

func (g *Group) receive(from int, at piece, narrow bool) error {
	to := g.memory.bytes(at)
	if !narrow || at.buf == bufToken {
		return g.tr.Recv(from, to)
	}
	raw := grow(&g.memory.raw, len(to)/2)
	if err := g.tr.Recv(from, raw); err != nil {
		return err
	}
	kernels.DecodeBF16(floats(to), raw)
	return nil
}

func (m *memory) reduce(r *kernels.Reduction, at piece, srcs []piece) {
	dst := m.bytes(at)
	if len(srcs) == 2 && r.Divisor <= 1 && !r.Round && r.Order == nil {
		kernels.Reduce2(r.Type, r.Op, dst, m.bytes(srcs[0]), m.bytes(srcs[1]))
		return
	}
	m.srcs = m.srcs[:0]
	for _, s := range srcs {
		m.srcs = append(m.srcs, m.bytes(s))
	}
	m.dsts[0] = dst
	r.Run(m.dsts[:], m.srcs)
}
