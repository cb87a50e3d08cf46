package auto

import (
	"encoding/binary"
	"math"
	"math/rand/v2"
	"slices"
	"unsafe"

	"github.com/farandole-ml/farandole/collective"
	"github.com/farandole-ml/farandole/elastic"
	"github.com/farandole-ml/farandole/kernels"
)

// soakWork makes calls whose results are known. The inputs are periodic: element i of rank r's is a small number that
// depends on i plus a phase of r modulo soakPeriod, so that every sum and product is exact in every order.
type soakWork struct {
	group       *collective.Group
	rank, world int
	memory      [soakBurst][2][]byte // out and in of the calls in flight
	allocated   [][]byte
	rings       map[soakRing][]byte
}

const (
	soakPeriod   = 61
	soakMaxBytes = 1 << 20
	soakBurst    = 3
)

// soakRing is a periodic input: products need smaller numbers.
type soakRing struct {
	dtype   collective.DType
	product bool
}

func newSoakWork(g *collective.Group, rank, world int) *soakWork {
	w := &soakWork{group: g, rank: rank, world: world, rings: make(map[soakRing][]byte)}
	for i := range w.memory {
		for k := range w.memory[i] {
			b := make([]byte, soakMaxBytes)
			if i > 0 {
				if own, err := g.Alloc(soakMaxBytes); err == nil {
					w.allocated = append(w.allocated, own)
					b = own
				}
			}
			w.memory[i][k] = b
		}
	}
	return w
}

func (w *soakWork) free() {
	for _, b := range w.allocated {
		if err := w.group.Free(b); err != nil {
			panic(err)
		}
	}
}

// ring is the input from phase 0 on, long enough for any phase.
func (w *soakWork) ring(k soakRing) []byte {
	if b := w.rings[k]; b != nil {
		return b
	}
	var b []byte
	for i := 0; len(b) < soakMaxBytes+soakPeriod*8; i++ {
		v := i % soakPeriod * 7 % 4
		if k.product {
			v = 1 + v%2
		}
		switch k.dtype {
		case collective.Float32:
			b = binary.NativeEndian.AppendUint32(b, math.Float32bits(float32(v)))
		case collective.Float64:
			b = binary.NativeEndian.AppendUint64(b, math.Float64bits(float64(v)))
		case collective.BFloat16:
			b = binary.NativeEndian.AppendUint16(b, uint16(math.Float32bits(float32(v))>>16))
		case collective.Float16:
			b = binary.NativeEndian.AppendUint16(b, [...]uint16{0, 0x3c00, 0x4000, 0x4200}[v])
		case collective.Int32:
			b = binary.NativeEndian.AppendUint32(b, uint32(v))
		case collective.Int64:
			b = binary.NativeEndian.AppendUint64(b, uint64(v))
		case collective.Uint8:
			b = append(b, byte(v))
		}
	}
	w.rings[k] = b
	return b
}

// input is n elements of rank r's input from element first on.
func (w *soakWork) input(k soakRing, r, first, n int) []byte {
	size := k.dtype.Size()
	at := (first + 13*r) % soakPeriod * size
	return w.ring(k)[at : at+n*size]
}

// reduced is a period of what the ranks' inputs become, from element first on.
func (w *soakWork) reduced(k soakRing, op collective.RedOp, first int) []byte {
	red := kernels.Reduction{Type: k.dtype, Op: kernels.RedOp(op)}
	if op == collective.Avg {
		red.Op, red.Divisor = kernels.Sum, w.world
	}
	var srcs [][]byte
	for r := range w.world {
		srcs = append(srcs, w.input(k, r, first, soakPeriod))
	}
	out := make([]byte, len(srcs[0]))
	red.Run([][]byte{out}, srcs)
	return out
}

// plan makes the next call, for place i among those in flight. All ranks draw the same numbers.
func (w *soakWork) plan(random *rand.Rand, i int) *soakCall {
	kinds := []collective.OpKind{collective.OpAllReduce, collective.OpAllReduce, collective.OpReduceTree, collective.OpReduceScatter,
		collective.OpAllGather, collective.OpBroadcast, collective.OpReduce, collective.OpAllToAll, collective.OpBarrier}
	k := soakRing{dtype: collective.DType(random.IntN(int(collective.Uint8) + 1))}
	c := &soakCall{call: collective.Call{Kind: kinds[random.IntN(len(kinds))], Op: collective.RedOp(random.IntN(int(collective.Avg) + 1)), Root: random.IntN(w.world)}}
	inPlace := random.IntN(2) == 0
	most := float64(soakMaxBytes / 8 / w.world)
	n := int(math.Pow(most, random.Float64())) - 1 // mostly small, 0 too
	if c.call.Kind == collective.OpReduceTree {
		return w.planTree(c, random, n, i)
	}
	k.product = c.call.Op == collective.Prod
	out, in := w.memory[i][0], w.memory[i][1]
	if inPlace {
		in = out
	}
	size := k.dtype.Size()
	vector := func(b []byte, n int) collective.Vector { return collective.Vector{Type: k.dtype, Data: b[:n*size]} }
	clear(out[:n*w.world*size])
	whole, part := n*w.world, w.rank*n
	switch c.call.Kind {
	case collective.OpAllReduce, collective.OpReduce:
		c.call.Out, c.call.In = vector(out, n), vector(in, n)
		copy(c.call.In.Data, w.input(k, w.rank, 0, n))
		if c.call.Kind == collective.OpAllReduce || w.rank == c.call.Root {
			c.want = w.reduced(k, c.call.Op, 0)
		}
	case collective.OpReduceScatter:
		c.call.Out, c.call.In = vector(out, n), vector(in, whole)
		if inPlace {
			c.call.Out = vector(out[part*size:], n)
		}
		copy(c.call.In.Data, w.input(k, w.rank, 0, whole))
		c.want = w.reduced(k, c.call.Op, part)
	case collective.OpAllGather:
		c.call.Out, c.call.In = vector(out, whole), vector(in, n)
		if inPlace {
			c.call.In = vector(out[part*size:], n)
		}
		copy(c.call.In.Data, w.input(k, w.rank, 0, n))
		c.parts, c.part = make([][]byte, w.world), n*size
		for r := range w.world {
			c.parts[r] = w.input(k, r, 0, soakPeriod)
		}
	case collective.OpAllToAll:
		c.call.Out, c.call.In = vector(out, whole), vector(in, whole)
		copy(c.call.In.Data, w.input(k, w.rank, 0, whole))
		c.parts, c.part = make([][]byte, w.world), n*size
		for r := range w.world {
			c.parts[r] = w.input(k, r, part, soakPeriod)
		}
	case collective.OpBroadcast:
		c.call.Out = vector(out, n)
		if w.rank == c.call.Root {
			copy(c.call.Out.Data, w.input(k, w.rank, 0, n))
		}
		c.want = w.input(k, c.call.Root, 0, soakPeriod)
	}
	return c
}

// planTree makes a tree-ordered reduction: shard s has rank s's input.
func (w *soakWork) planTree(c *soakCall, random *rand.Rand, n, i int) *soakCall {
	k := soakRing{dtype: collective.Float32}
	shards := w.world + random.IntN(2*w.world)
	ranges := elastic.Assign(shards, w.world)
	sum := func(first, end, at, n int) []byte {
		red := kernels.Reduction{Type: k.dtype, Op: kernels.Sum}
		var srcs [][]byte
		for s := first; s < end; s++ {
			srcs = append(srcs, w.input(k, s, at, n))
		}
		out := make([]byte, n*k.dtype.Size())
		red.Run([][]byte{out}, srcs)
		return out
	}
	out := collective.Vector{Type: k.dtype, Data: w.memory[i][0][:4*n]}
	clear(out.Data)
	c.call.Out, c.call.Ranges, c.call.Shards = out, ranges, shards
	for j, node := range elastic.Partials(ranges[w.rank], shards) {
		data := make([]float32, n)
		if j == 0 {
			data = unsafe.Slice((*float32)(unsafe.Pointer(&w.memory[i][1][0])), n)
		}
		period := sum(node.First, node.End, 0, soakPeriod)
		for b := collective.Of(data).Data; len(b) > 0; {
			b = b[copy(b, period):]
		}
		c.call.Partials = append(c.call.Partials, collective.Partial{Node: node, Data: data})
	}
	c.want = sum(0, shards, 0, soakPeriod)
	return c
}

// soakCall is a call and what comes out of it.
type soakCall struct {
	call   collective.Call
	handle *collective.Handle
	want   []byte // of the output, periodic from its beginning; nil: nothing comes out here
	part   int    // bytes from which on the next rank's wanted bytes apply; 0: one part
	parts  [][]byte
}

func (c *soakCall) right() bool {
	out := c.call.Out.Data
	if c.parts != nil {
		for r, want := range c.parts {
			if !periodic(out[r*c.part:(r+1)*c.part], want) {
				return false
			}
		}
		return true
	}
	return c.want == nil || periodic(out, c.want)
}

func periodic(b, period []byte) bool {
	for len(b) > 0 {
		n := min(len(b), len(period))
		if !slices.Equal(b[:n], period[:n]) {
			return false
		}
		b = b[n:]
	}
	return true
}
