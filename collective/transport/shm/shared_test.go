//go:build linux

package shm

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"

	"github.com/farandole-ml/farandole/collective"
	"github.com/farandole-ml/farandole/elastic"
	"github.com/farandole-ml/farandole/kernels"
)

// each runs f for every rank at the same time, and wants no error.
func each(t testing.TB, groups []*collective.Group, f func(g *collective.Group) error) {
	t.Helper()
	errs := make([]error, len(groups))
	var wg sync.WaitGroup
	for r, g := range groups {
		wg.Go(func() {
			if errs[r] = f(g); errs[r] != nil {
				g.Abort(fmt.Errorf("test failed on rank %d: %w", r, errs[r]))
			}
		})
	}
	wg.Wait()
	for r, err := range errs {
		require.NoError(t, err, "rank %d", r)
	}
}

func groupsOf(t testing.TB, transports []collective.Transport) []*collective.Group {
	groups := make([]*collective.Group, len(transports))
	for r, tr := range transports {
		groups[r] = collective.New(tr)
		t.Cleanup(func() { groups[r].Close() })
	}
	return groups
}

// placement says whose arrays are registered.
type placement struct {
	name       string
	registered func(rank int) bool
}

var placements = []placement{
	{"registered", func(int) bool { return true }},
	{"private", func(int) bool { return false }},
	{"mixed", func(rank int) bool { return rank%2 == 1 }},
}

// array gives n bytes as a rank's placement says, until free is called.
func (p placement) array(g *collective.Group, n int) (b []byte, free func(), err error) {
	if !p.registered(g.Rank()) {
		return make([]byte, n), func() {}, nil
	}
	b, err = g.Alloc(n)
	return b, func() { _ = g.Free(b) }, err
}

// noise gives n bytes for a rank that are values of every kind, NaNs too.
func noise(n, rank, salt int) []byte {
	rng := rand.New(rand.NewPCG(uint64(rank), uint64(salt)))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return b
}

// problem is an operation on noise, and what it must give.
type problem struct {
	call    collective.Call // without buffers
	in, out func(world, n int) int
	// want is rank's out, from all ranks' in; nil: not written.
	want func(ins [][]byte, rank int, c *collective.Call) []byte
}

func reduced(srcs [][]byte, c *collective.Call, world int) []byte {
	r := kernels.Reduction{Type: c.In.Type, Op: kernels.RedOp(c.Op)}
	if c.Op == collective.Avg {
		r.Op, r.Divisor = kernels.Sum, world
	}
	dst := make([]byte, len(srcs[0]))
	r.Run([][]byte{dst}, srcs)
	return dst
}

func partsOf(ins [][]byte, i, world int) [][]byte {
	parts := make([][]byte, len(ins))
	for r, in := range ins {
		n := len(in) / world
		parts[r] = in[i*n : (i+1)*n]
	}
	return parts
}

func same(_, n int) int      { return n }
func times(world, n int) int { return world * n }

var problems = []problem{
	{collective.Call{Kind: collective.OpAllReduce}, same, same, func(ins [][]byte, _ int, c *collective.Call) []byte {
		return reduced(ins, c, len(ins))
	}},
	{collective.Call{Kind: collective.OpReduceScatter}, times, same, func(ins [][]byte, rank int, c *collective.Call) []byte {
		return reduced(partsOf(ins, rank, len(ins)), c, len(ins))
	}},
	{collective.Call{Kind: collective.OpAllGather}, same, times, func(ins [][]byte, _ int, _ *collective.Call) []byte {
		var all []byte
		for _, in := range ins {
			all = append(all, in...)
		}
		return all
	}},
	{collective.Call{Kind: collective.OpReduce}, same, same, func(ins [][]byte, rank int, c *collective.Call) []byte {
		if rank != c.Root {
			return nil
		}
		return reduced(ins, c, len(ins))
	}},
	{collective.Call{Kind: collective.OpBroadcast}, same, same, func(ins [][]byte, _ int, c *collective.Call) []byte {
		return ins[c.Root]
	}},
	{collective.Call{Kind: collective.OpAllToAll}, times, times, func(ins [][]byte, rank int, _ *collective.Call) []byte {
		var all []byte
		for _, part := range partsOf(ins, rank, len(ins)) {
			all = append(all, part...)
		}
		return all
	}},
}

// inPlaceOf is where in lies in out, or out in in, when the operation is in place.
func inPlaceOf(kind collective.OpKind, whole []byte, rank, n int) (in, out []byte) {
	part := whole[min(rank*n, len(whole)):]
	part = part[:min(n, len(part))]
	switch kind {
	case collective.OpReduceScatter:
		return whole, part
	case collective.OpAllGather:
		return part, whole
	}
	return whole, whole
}

// TestOperationsInSharedMemory checks every operation, type and reduction to the bit, in place and out of place, in
// registered and in private memory.
func TestOperationsInSharedMemory(t *testing.T) {
	for _, world := range []int{1, 2, 3, 5} {
		for _, at := range placements {
			t.Run(fmt.Sprintf("%s/world %d", at.name, world), func(t *testing.T) {
				groups := groupsOf(t, connected(t, world))
				salt := 0
				for _, elements := range []int{0, 1, 7, 300, 5003, 70001} {
					for _, p := range problems {
						for _, inPlace := range []bool{false, true} {
							salt++
							c := p.call
							c.Op = collective.RedOp(salt % 5)
							c.Root = salt % world
							dtype := collective.DType(salt % 7)
							each(t, groups, func(g *collective.Group) error {
								return p.check(g, c, dtype, elements*dtype.Size(), at, inPlace, salt)
							})
						}
					}
				}
			})
		}
	}
}

func (p problem) check(g *collective.Group, c collective.Call, dtype collective.DType, n int, at placement, inPlace bool, salt int) error {
	world := g.World()
	ins := make([][]byte, world)
	for r := range ins {
		ins[r] = noise(p.in(world, n), r, salt)
	}
	in, freeIn, err := at.array(g, p.in(world, n))
	if err != nil {
		return err
	}
	defer freeIn()
	out, freeOut, err := at.array(g, max(p.out(world, n), p.in(world, n)))
	if err != nil {
		return err
	}
	defer freeOut()
	out = out[:p.out(world, n)]
	if inPlace || c.Kind == collective.OpBroadcast {
		whole := out
		if len(in) > len(out) {
			whole = in
		}
		in, out = inPlaceOf(c.Kind, whole, g.Rank(), n)
	}
	c.In, c.Out = collective.Vector{Type: dtype, Data: in}, collective.Vector{Type: dtype, Data: out}
	want := p.want(ins, g.Rank(), &c)
	copy(in, ins[g.Rank()])
	if err := g.Do(context.Background(), &c); err != nil {
		return err
	}
	if want != nil && string(want) != string(out) {
		return fmt.Errorf("%v %v of %v, %d bytes, in place %v: wrong result", c.Kind, c.Op, dtype, n, inPlace)
	}
	if !inPlace && c.Kind != collective.OpBroadcast && string(in) != string(ins[g.Rank()]) {
		return fmt.Errorf("%v of %d bytes: the input was changed", c.Kind, n)
	}
	return nil
}

// TestTreeInSharedMemory checks that the tree's bits do not depend on where the partials are.
func TestTreeInSharedMemory(t *testing.T) {
	const shards = 8
	for _, n := range []int{1, 100, 9001, 200003} {
		leaves := make([][]byte, shards)
		for s := range leaves {
			leaves[s] = finite(n, s)
		}
		for _, wire := range []collective.Wire{collective.WireF32, collective.WireBF16} {
			want := node(elastic.Range{First: 0, End: shards}, leaves, wire)
			for _, world := range []int{1, 2, 3, 5} {
				for _, at := range placements {
					t.Run(fmt.Sprintf("%d/%v/world %d/%s", n, wire, world, at.name), func(t *testing.T) {
						groups := groupsOf(t, connected(t, world))
						each(t, groups, func(g *collective.Group) error { return checkTree(g, at, leaves, wire, want) })
					})
				}
			}
		}
	}
}

// finite gives n float32 numbers whose sums depend on the order.
func finite(n, salt int) []byte {
	rng := rand.New(rand.NewPCG(uint64(salt), 7))
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(rng.NormFloat64() * float64(int(1)<<rng.IntN(20)))
	}
	return bytesOf(x)
}

func floatsOf(b []byte) []float32 {
	return unsafe.Slice((*float32)(unsafe.Pointer(unsafe.SliceData(b))), len(b)/4)
}

// node is the value of a tree node.
func node(of elastic.Range, leaves [][]byte, wire collective.Wire) []byte {
	r := kernels.Reduction{Round: wire == collective.WireBF16}
	out := make([]byte, len(leaves[0]))
	srcs := [][]byte{leaves[of.First]}
	if left, right, ok := elastic.Children(of); ok {
		srcs = [][]byte{node(left, leaves, wire), node(right, leaves, wire)}
	}
	r.Run([][]byte{out}, srcs)
	return out
}

func checkTree(g *collective.Group, at placement, leaves [][]byte, wire collective.Wire, want []byte) error {
	c := collective.Call{Kind: collective.OpReduceTree, Ranges: elastic.Assign(len(leaves), g.World()), Shards: len(leaves), Wire: wire}
	for _, of := range elastic.Partials(c.Ranges[g.Rank()], len(leaves)) {
		b, free, err := at.array(g, len(want))
		if err != nil {
			return err
		}
		defer free()
		copy(b, node(of, leaves, wire))
		c.Partials = append(c.Partials, collective.Partial{Node: of, Data: floatsOf(b)})
	}
	c.Out = collective.Of(c.Partials[0].Data)
	if err := g.Do(context.Background(), &c); err != nil {
		return err
	}
	if string(c.Out.Data) != string(want) {
		return fmt.Errorf("tree of %d bytes over %d ranks: wrong bits", len(want), g.World())
	}
	return nil
}
