package collectivetest

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"math/bits"
	"math/rand/v2"
	"testing"

	"github.com/farandole-ml/farandole/collective"
	"github.com/farandole-ml/farandole/kernels"
)

var types = []collective.DType{
	collective.Float32, collective.Float64, collective.BFloat16, collective.Float16,
	collective.Int32, collective.Int64, collective.Uint8,
}

var redops = []collective.RedOp{collective.Sum, collective.Prod, collective.Min, collective.Max, collective.Avg}

// kinds are the operations that a shape can say.
var kinds = []collective.OpKind{
	collective.OpAllReduce, collective.OpReduceScatter, collective.OpAllGather, collective.OpBroadcast,
	collective.OpReduce, collective.OpAllToAll, collective.OpBarrier,
}

// shape says one operation of a group, for all ranks.
type shape struct {
	kind      collective.OpKind
	algorithm collective.Algorithm
	dtype     collective.DType
	op        collective.RedOp
	root      int
	elements  int // of the buffer, or of one rank's part of it
	inPlace   bool
}

func (s shape) String() string {
	return fmt.Sprintf("%v by %v of %d %v, %v, root %d, in place %t", s.kind, s.algorithm, s.elements, s.dtype, s.op, s.root, s.inPlace)
}

// draw fills in what s leaves open.
func (s shape) draw(rng *rand.Rand, world int) shape {
	s.dtype = types[rng.IntN(len(types))]
	s.op = redops[rng.IntN(len(redops))]
	s.root = rng.IntN(world)
	s.elements = lengths[rng.IntN(len(lengths))]
	s.inPlace = rng.IntN(2) == 0
	return s
}

// parts is how many parts of s.elements the input and the output have.
func (s shape) parts(world int) (in, out int) {
	switch s.kind {
	case collective.OpReduceScatter:
		return world, 1
	case collective.OpAllGather:
		return 1, world
	case collective.OpAllToAll:
		return world, world
	case collective.OpBarrier:
		return 0, 0
	}
	return 1, 1
}

// value is what rank brings in at element i: so small that sums and products over some ranks are exact in every type.
func (s shape) value(rank, i int) int {
	if s.op == collective.Prod {
		return 1 + (i+rank)%3/2
	}
	return (i*5 + rank*7 + i/13) % 16
}

// put writes a small number as element i of b.
func put(b []byte, t collective.DType, i, v int) {
	le := binary.LittleEndian
	b = b[i*t.Size():]
	switch t {
	case collective.Float32:
		le.PutUint32(b, math.Float32bits(float32(v)))
	case collective.Float64:
		le.PutUint64(b, math.Float64bits(float64(v)))
	case collective.BFloat16:
		le.PutUint16(b, uint16(math.Float32bits(float32(v))>>16))
	case collective.Float16:
		h := uint16(0)
		if v > 0 {
			e := bits.Len(uint(v)) - 1
			h = uint16(e+15)<<10 | uint16(v<<(10-e))&0x3ff
		}
		le.PutUint16(b, h)
	case collective.Int32:
		le.PutUint32(b, uint32(v))
	case collective.Int64:
		le.PutUint64(b, uint64(v))
	default:
		b[0] = byte(v)
	}
}

// input is what rank brings in.
func (s shape) input(rank, world int) []byte {
	in, _ := s.parts(world)
	b := make([]byte, in*s.elements*s.dtype.Size())
	for i := range in * s.elements {
		put(b, s.dtype, i, s.value(rank, i))
	}
	return b
}

// result is what rank must get; nil: nothing.
func (s shape) result(rank, world int) []byte {
	n := s.elements * s.dtype.Size()
	var srcs [][]byte
	for r := range world {
		srcs = append(srcs, s.input(r, world))
	}
	switch s.kind {
	case collective.OpBroadcast:
		return srcs[s.root]
	case collective.OpAllGather:
		return bytes.Join(srcs, nil)
	case collective.OpAllToAll:
		for r := range srcs {
			srcs[r] = srcs[r][n*rank : n*(rank+1)]
		}
		return bytes.Join(srcs, nil)
	case collective.OpReduceScatter:
		for r := range srcs {
			srcs[r] = srcs[r][n*rank : n*(rank+1)]
		}
	case collective.OpReduce:
		if rank != s.root {
			return nil
		}
	case collective.OpBarrier:
		return nil
	}
	reduction := kernels.Reduction{Type: s.dtype, Op: kernels.RedOp(s.op)}
	if s.op == collective.Avg {
		reduction.Op, reduction.Divisor = kernels.Sum, world
	}
	out := make([]byte, n)
	reduction.Run([][]byte{out}, srcs)
	return out
}

// guard surrounds results: an operation writes nothing else.
const guard = 64

// allocate gives n guarded bytes and what to do when they are not needed any more.
func allocate(g *collective.Group, n int, registered bool) (all, b []byte, free func(), err error) {
	free = func() {}
	if registered {
		if all, err = g.Alloc(n + 2*guard); err != nil {
			return nil, nil, free, err
		}
		free = func() { _ = g.Free(all[:n+2*guard]) }
	} else {
		all = make([]byte, n+2*guard)
	}
	for i := range all {
		all[i] = 0xa5
	}
	return all, all[guard : guard+n : guard+n], free, nil
}

// run carries s out on one rank and checks the result.
func (s shape) run(g *collective.Group, do func(*collective.Call) error, registered bool) error {
	rank, world := g.Rank(), g.World()
	given, want := s.input(rank, world), s.result(rank, world)
	_, outParts := s.parts(world)
	n := s.elements * s.dtype.Size()
	guarded, out, free, err := allocate(g, outParts*n, registered)
	if err != nil {
		return err
	}
	defer free()
	in := bytes.Clone(given)
	c := collective.Call{Kind: s.kind, Op: s.op, Root: s.root, Algorithm: s.algorithm}
	c.Out, c.In = collective.Vector{Type: s.dtype, Data: out}, collective.Vector{Type: s.dtype, Data: in}
	keepsInput := !s.inPlace
	switch {
	case s.kind == collective.OpBarrier:
		c.Out, c.In = collective.Vector{}, collective.Vector{}
	case s.kind == collective.OpBroadcast:
		if rank == s.root {
			copy(out, in)
		}
	case s.kind == collective.OpReduce && rank != s.root && s.inPlace:
		c.Out, keepsInput = collective.Vector{}, true // not needed here
	case s.inPlace && s.kind == collective.OpReduceScatter:
		c.Out.Data = in[n*rank : n*(rank+1)]
	case s.inPlace && s.kind == collective.OpAllGather:
		c.In.Data = out[n*rank : n*(rank+1)]
		copy(c.In.Data, given)
	case s.inPlace:
		copy(out, in)
		c.In.Data = out
	}
	if err := do(&c); err != nil {
		return fmt.Errorf("%v: %w", s, err)
	}
	if want != nil && !bytes.Equal(c.Out.Data, want) {
		return fmt.Errorf("%v: rank %d of %d got\n%x, not\n%x", s, rank, world, head(c.Out.Data), head(want))
	}
	if keepsInput && !bytes.Equal(in, given) {
		return fmt.Errorf("%v: rank %d: the input was written to", s, rank)
	}
	for i := range guard {
		if guarded[i] != 0xa5 || guarded[guard+len(out)+i] != 0xa5 {
			return fmt.Errorf("%v: rank %d: something beside the result was written to", s, rank)
		}
	}
	return nil
}

func head(b []byte) []byte { return b[:min(len(b), 100)] }

// check runs s on all ranks.
func (c *cluster) check(t testing.TB, s shape, registered bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	c.must(t, func(g *collective.Group) error {
		return s.run(g, func(call *collective.Call) error { return g.Do(ctx, call) }, registered)
	})
}

// algorithms are those by which the cluster can run k, and Auto.
func (c *cluster) algorithms(k collective.OpKind) []collective.Algorithm {
	list := []collective.Algorithm{collective.Auto}
	for _, a := range k.Algorithms() {
		if a != collective.Shared { // Auto, where there is shared memory
			list = append(list, a)
		}
	}
	return list
}

// testCalls checks the results of every operation by every algorithm, with lengths, types, reductions, roots and places
// drawn at random; and of every type and reduction on one world.
func testCalls(t *testing.T, mesh Mesh) {
	const seed = 20260311
	for _, p := range grid(1, 2, 3, 5, 8) {
		t.Run(fmt.Sprintf("%s/world %d", p.name, p.world), func(t *testing.T) {
			leakFree(t)
			rng := rand.New(rand.NewPCG(seed, uint64(p.world)))
			c := newCluster(t, mesh(t, p.world), p.tuning)
			defer c.close(t)
			for _, kind := range kinds {
				for _, a := range c.algorithms(kind) {
					for draw := range 2 {
						c.check(t, shape{kind: kind, algorithm: a}.draw(rng, p.world), draw == 0)
					}
				}
			}
		})
	}
	t.Run("types", func(t *testing.T) {
		c := newCluster(t, mesh(t, 3), tunings["many chunks"])
		defer c.close(t)
		for _, kind := range kinds {
			for _, a := range c.algorithms(kind) {
				for _, dtype := range types {
					for _, op := range redops {
						c.check(t, shape{kind, a, dtype, op, 1, 77, op%2 == 0}, false)
					}
				}
			}
		}
	})
	t.Run("lengths", func(t *testing.T) {
		c := newCluster(t, mesh(t, 4), tunings["many chunks"])
		defer c.close(t)
		for _, kind := range kinds {
			for _, a := range c.algorithms(kind) {
				for _, n := range lengths {
					c.check(t, shape{kind, a, collective.Float32, collective.Sum, 3, n, n%2 == 0}, n%3 == 0)
				}
			}
		}
	})
}
