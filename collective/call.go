package collective

import (
	"fmt"
	"unsafe"

	"github.com/farandole-ml/farandole/elastic"
)

// Partial is a tree node's value, held by one rank.
type Partial struct {
	Node elastic.Range
	Data []float32
}

// Call says an operation with its arguments. The buffers are the caller's and must not be touched while the operation
// runs. Fields that a kind does not name are ignored.
//
//	OpAllReduce      Out and In, equally long: Out becomes the reduction of all ranks' In
//	OpReduceScatter  In is world parts of Out's length: Out becomes the reduction of all ranks' part number rank
//	OpAllGather      Out is world parts of In's length: part r becomes rank r's In
//	OpBroadcast      Out: becomes what it is on rank Root
//	OpReduce         Out on rank Root alone becomes the reduction of all ranks' In
//	OpAllToAll       Out and In, equally long, world parts each: part r of Out becomes part number rank of rank r's In
//	OpBarrier        nothing
//	OpReduceTree     Out, float32, becomes the sum of Partials in the order of the tree: see Group.ReduceTree
//
// In may be Out itself, and where one is a part of the other, In may be Out's own part (all-gather) or Out In's
// (reduce-scatter); other overlaps are not allowed. Only Out is written.
type Call struct {
	Kind      OpKind
	Out, In   Vector
	Op        RedOp     // OpAllReduce, OpReduceScatter, OpReduce
	Root      int       // OpBroadcast, OpReduce
	Algorithm Algorithm // Auto: what Tuning says

	// of OpReduceTree
	Partials []Partial
	Ranges   []elastic.Range // of shards, by rank
	Shards   int
	Wire     Wire // WireF32: what Tuning says
}

// part is the length in bytes that all ranks must agree on: the buffer, or one rank's part of it.
func (c *Call) part() int {
	switch c.Kind {
	case OpAllGather, OpReduce:
		return len(c.In.Data)
	case OpBarrier:
		return 0
	}
	return len(c.Out.Data)
}

// check says whether rank's arguments can be those of an operation in a group of world.
func (c *Call) check(rank, world int) error {
	if c.Kind == OpSendRecv || c.Kind >= opKinds {
		return fmt.Errorf("%w: a Call of %v", ErrMisuse, c.Kind)
	}
	if c.Algorithm >= algorithms || c.Algorithm != Auto && c.Algorithm != Shared && !c.Kind.has(c.Algorithm) {
		return fmt.Errorf("%w: %v has no algorithm %v: it has %s", ErrMisuse, c.Kind, c.Algorithm, joinAlgorithms(c.Kind.Algorithms()))
	}
	if c.Kind == OpBarrier {
		return nil
	}
	if err := c.checkTypes(rank); err != nil {
		return err
	}
	if c.Kind.rooted() && (c.Root < 0 || c.Root >= world) {
		return fmt.Errorf("%w: %v with root %d in a group of %d", ErrMisuse, c.Kind, c.Root, world)
	}
	return c.checkLengths(rank, world)
}

func (c *Call) checkTypes(rank int) error {
	if !c.Out.Type.Valid() || !c.In.Type.Valid() {
		return fmt.Errorf("%w: %v of a vector of type %d and one of type %d", ErrMisuse, c.Kind, uint8(c.Out.Type), uint8(c.In.Type))
	}
	t := c.Out.Type
	switch c.Kind {
	case OpReduceTree:
		if t != Float32 {
			return fmt.Errorf("%w: %v of %v: it works on float32 alone", ErrMisuse, c.Kind, t)
		}
	case OpReduce:
		t = c.In.Type
		if rank == c.Root && c.Out.Type != t {
			return fmt.Errorf("%w: %v of %v into %v", ErrMisuse, c.Kind, t, c.Out.Type)
		}
	case OpBroadcast:
	default:
		if c.In.Type != t {
			return fmt.Errorf("%w: %v of %v into %v", ErrMisuse, c.Kind, c.In.Type, t)
		}
	}
	if c.Kind.reduces() && c.Op > Avg {
		return fmt.Errorf("%w: %v with reduction %d", ErrMisuse, c.Kind, uint8(c.Op))
	}
	if !c.Out.whole() || !c.In.whole() {
		return fmt.Errorf("%w: %v of %d bytes of %v into %d of %v: a vector is no whole number of elements, or begins at an address that its type may not have",
			ErrMisuse, c.Kind, len(c.In.Data), c.In.Type, len(c.Out.Data), c.Out.Type)
	}
	return nil
}

func (c *Call) checkLengths(rank, world int) error {
	out, in := len(c.Out.Data), len(c.In.Data)
	fits, inPlace := true, true
	switch c.Kind {
	case OpAllReduce:
		fits = out == in
	case OpAllToAll:
		fits = out == in && out%(world*c.Out.Type.Size()) == 0
	case OpReduceScatter:
		fits = in/world == out && in%world == 0
		inPlace = within(c.In.Data, c.Out.Data, rank*out)
	case OpAllGather:
		fits = out/world == in && out%world == 0
		inPlace = within(c.Out.Data, c.In.Data, rank*in)
	case OpReduce:
		fits = rank != c.Root || out == in
		if rank != c.Root {
			return nil
		}
	case OpBroadcast, OpReduceTree:
		return nil
	}
	if c.Kind == OpAllReduce || c.Kind == OpAllToAll || c.Kind == OpReduce {
		inPlace = within(c.Out.Data, c.In.Data, 0)
	}
	switch {
	case !fits:
		return fmt.Errorf("%w: %v over %d ranks of %d bytes into %d", ErrMisuse, c.Kind, world, in, out)
	case !inPlace:
		return fmt.Errorf("%w: %v: the buffers overlap otherwise than in place", ErrMisuse, c.Kind)
	}
	return nil
}

// within says that b does not overlap a, or begins offset bytes after it.
func within(a, b []byte, offset int) bool {
	if len(a) == 0 || len(b) == 0 {
		return true
	}
	at, bt := uintptr(unsafe.Pointer(&a[0])), uintptr(unsafe.Pointer(&b[0]))
	return bt == at+uintptr(offset) || bt >= at+uintptr(len(a)) || at >= bt+uintptr(len(b))
}

// digest is a 32-bit FNV-1a.
type digest uint32

func newDigest() digest { return 2166136261 }

func (h digest) mix(v int) digest {
	for range 4 {
		h = (h ^ digest(v&0xff)) * 16777619
		v >>= 8
	}
	return h
}

// fold is h in 21 bits.
func (h digest) fold() uint32 { return uint32(h^h>>21) & shapeRestMask }

// describe is what identifies c, with algorithm a, in group g, but for its number.
func (g *Group) describe(c *Call, a Algorithm) Op {
	op := Op{Kind: c.Kind, Bytes: uint64(c.part())}
	var t DType
	var red RedOp
	rest := uint32(0)
	switch {
	case c.Kind == OpReduceTree:
		h := newDigest().mix(c.Shards).mix(int(g.wire(c)))
		for _, r := range c.Ranges {
			h = h.mix(r.First).mix(r.End)
		}
		rest = h.fold()
	case c.Kind.rooted():
		rest = uint32(c.Root)
	}
	switch {
	case c.Kind == OpReduceTree:
		t = Float32
	case c.Kind == OpBroadcast:
		t = c.Out.Type
	case c.Kind != OpBarrier:
		t = c.In.Type
	}
	if c.Kind.reduces() && c.Kind != OpReduceTree {
		red = c.Op
	}
	op.Shape = shape(t, red, a, rest)
	if g.id != 0 {
		op.Shape = shape(t, red, a, newDigest().mix(int(g.id)).mix(int(rest)).fold()) | shapeSub
	}
	return op
}
