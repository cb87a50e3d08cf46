package collectivetest

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/farandole-ml/farandole/collective"
	"github.com/farandole-ml/farandole/elastic"
)

// wild gives n floats of all magnitudes and signs, so that the sum of several depends on the order of the additions.
func wild(n int, seed, stream uint64) []float32 {
	rng := rand.New(rand.NewPCG(seed, stream))
	b := make([]float32, n)
	for i := range b {
		b[i] = float32(math.Ldexp(rng.Float64()-0.5, rng.IntN(60)-30))
	}
	return b
}

// round is x as the wire has it.
func round(w collective.Wire, x float32) float32 {
	if w == collective.WireF32 {
		return x
	}
	b := math.Float32bits(x)
	return math.Float32frombits((b + 0x7fff + b>>16&1) &^ 0xffff)
}

// nodeSum is the value of a node of the reduction tree, straight from its definition.
func nodeSum(w collective.Wire, shards [][]float32, node elastic.Range) []float32 {
	out := make([]float32, len(shards[0]))
	if node.Len() == 1 {
		for i, x := range shards[node.First] {
			out[i] = round(w, x)
		}
		return out
	}
	m := (node.First + node.End) / 2
	left := nodeSum(w, shards, elastic.Range{First: node.First, End: m})
	right := nodeSum(w, shards, elastic.Range{First: m, End: node.End})
	for i := range left {
		out[i] = round(w, left[i]+right[i])
	}
	return out
}

// treeArguments gives a rank's arguments for a tree reduction of zeros, two shards for each rank.
func treeArguments(g *collective.Group, n int) ([]float32, []collective.Partial, []elastic.Range, int) {
	shards := 2*g.World() + 1
	ranges := elastic.Assign(shards, g.World())
	var partials []collective.Partial
	for _, node := range elastic.Partials(ranges[g.Rank()], shards) {
		partials = append(partials, collective.Partial{Node: node, Data: make([]float32, n)})
	}
	return make([]float32, n), partials, ranges, shards
}

// treeCase is one tree reduction of a group.
type treeCase struct {
	ranges    []elastic.Range
	shards, n int
	algorithm collective.Algorithm
	wire      collective.Wire
	seed      uint64
}

// testTreeOrder is the project's central claim: the bits of the sum are those of one rank that has all shards,
// for every world size, every contiguous assignment, every length, algorithm, tuning and place of the ranks, on either wire.
func testTreeOrder(t *testing.T, mesh Mesh) {
	const seed = 20251122
	rng := rand.New(rand.NewPCG(seed, 0))
	some := []int{0, 1, 2, 13, 101, 1009}
	names := []string{"default", "many chunks", "one chunk", "direct"}
	for world := 1; world <= 9; world++ {
		t.Run(fmt.Sprintf("world %d", world), func(t *testing.T) {
			leakFree(t)
			for i, name := range names {
				transports := mesh(t, world)
				if i%2 == 1 {
					transports = place(transports, 1+world/3)
				}
				c := newCluster(t, transports, tunings[name])
				for shards := world; shards <= 40; shards += 1 + rng.IntN(8) {
					algorithms := c.algorithms(collective.OpReduceTree)
					for _, ranges := range [][]elastic.Range{elastic.Assign(shards, world), randomRanges(rng, shards, world)} {
						for range 2 {
							n, a := some[rng.IntN(len(some))], algorithms[rng.IntN(len(algorithms))]
							checkTree(t, c, treeCase{ranges, shards, n, a, collective.Wire(rng.IntN(2)), rng.Uint64()})
						}
					}
				}
				c.close(t)
			}
		})
	}
	t.Run("every world", func(t *testing.T) {
		const shards = 20
		for world := 1; world <= shards; world += 1 + world/6 {
			c := newCluster(t, mesh(t, world), tunings["many chunks"])
			for _, wire := range []collective.Wire{collective.WireF32, collective.WireBF16} {
				checkTree(t, c, treeCase{elastic.Assign(shards, world), shards, 997, collective.Auto, wire, seed})
			}
			c.close(t)
		}
	})
	t.Run("halves", func(t *testing.T) {
		for world := 2; world <= 8; world *= 2 {
			for hosts := 1; hosts <= world; hosts *= 2 {
				c := newCluster(t, place(mesh(t, world), world/hosts), tunings["many chunks"])
				for _, a := range c.algorithms(collective.OpReduceTree) {
					for shards := world; shards <= 32; shards += world {
						checkTree(t, c, treeCase{elastic.Assign(shards, world), shards, 555, a, collective.Wire(shards / world % 2), seed})
					}
				}
				c.close(t)
			}
		}
	})
}

// randomRanges cuts the shards at random places: ranks may have none.
func randomRanges(rng *rand.Rand, shards, world int) []elastic.Range {
	cuts := []int{0, shards}
	for range world - 1 {
		cuts = append(cuts, rng.IntN(shards+1))
	}
	slices.Sort(cuts)
	var ranges []elastic.Range
	for r := range world {
		ranges = append(ranges, elastic.Range{First: cuts[r], End: cuts[r+1]})
	}
	return ranges
}

func checkTree(t *testing.T, c *cluster, k treeCase) {
	t.Helper()
	values := make([][]float32, k.shards)
	for s := range values {
		values[s] = wild(k.n, k.seed, uint64(s))
	}
	want := nodeSum(k.wire, values, elastic.Range{First: 0, End: k.shards})
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	c.must(t, func(g *collective.Group) error {
		call := collective.Call{Kind: collective.OpReduceTree, Algorithm: k.algorithm, Wire: k.wire, Ranges: k.ranges, Shards: k.shards}
		for _, node := range elastic.Partials(k.ranges[g.Rank()], k.shards) {
			v := values[node.First] // a leaf may come as it is
			if node.Len() > 1 {
				v = nodeSum(k.wire, values, node)
			}
			call.Partials = append(call.Partials, collective.Partial{Node: node, Data: slices.Clone(v)})
		}
		out := make([]float32, k.n)
		if parts := len(call.Partials); parts > 0 && k.seed%2 == 0 {
			out = call.Partials[int(k.seed>>1&math.MaxInt32)%parts].Data // the result may replace an argument
		}
		call.Out = collective.Of(out)
		if err := g.Do(ctx, &call); err != nil {
			return err
		}
		if !equalBits(out, want) {
			return fmt.Errorf("rank %d: %+v: other bits than on one rank", g.Rank(), k)
		}
		return nil
	})
}

// testMisuse checks that arguments that cannot work end the group everywhere.
func testMisuse(t *testing.T, mesh Mesh) {
	ctx := context.Background()
	out, short := make([]float32, 5), make([]float32, 4)
	ranges := []elastic.Range{{First: 0, End: 1}, {First: 1, End: 3}}
	node := elastic.Range{First: 0, End: 1}
	reduce := func(p []collective.Partial, r []elastic.Range, shards int) func(*collective.Group) error {
		return func(g *collective.Group) error { return g.ReduceTree(ctx, out, p, r, shards) }
	}
	good := []collective.Partial{{Node: node, Data: out}}
	cases := map[string]func(g *collective.Group) error{
		"no partial":         reduce(nil, ranges, 3),
		"other node":         reduce([]collective.Partial{{Node: elastic.Range{First: 0, End: 2}, Data: out}}, ranges, 3),
		"short partial":      reduce([]collective.Partial{{Node: node, Data: short}}, ranges, 3),
		"too few ranges":     reduce(good, ranges[:1], 1),
		"a gap":              reduce(good, []elastic.Range{{First: 0, End: 1}, {First: 2, End: 3}}, 3),
		"shards left over":   reduce(good, ranges, 4),
		"shards out of tree": reduce(good, ranges, 2),
		"no shards":          reduce(nil, []elastic.Range{{}, {}}, 0),
		"no such root":       func(g *collective.Group) error { return g.Broadcast(ctx, collective.Of(make([]byte, 3)), 2) },
		"gather length": func(g *collective.Group) error {
			return g.AllGather(ctx, collective.Of(make([]byte, 3)), collective.Of(make([]byte, 2)))
		},
		"to itself":    func(g *collective.Group) error { return g.Send(ctx, g.Rank(), make([]byte, 1)) },
		"no such peer": func(g *collective.Group) error { return g.Recv(ctx, 2, make([]byte, 1)) },
	}
	for name, call := range cases {
		t.Run(name, func(t *testing.T) {
			leakFree(t)
			c := newCluster(t, mesh(t, 2), collective.Tuning{})
			defer c.close(t)
			errs := c.each(func(g *collective.Group) error {
				if g.Rank() == 0 {
					return call(g)
				}
				return g.Barrier(ctx)
			})
			require.ErrorIs(t, errs[0], collective.ErrMisuse)
			requirePeer(t, errs[1], 0)
		})
	}
	t.Run("two at a time", func(t *testing.T) {
		leakFree(t)
		transports := mesh(t, 2)
		inside := make(chan struct{})
		transports[0] = hook(transports[0], func(int64) { close(inside) })
		c := newCluster(t, transports, collective.Tuning{})
		defer c.close(t)
		first := make(chan error)
		go func() { first <- c.groups[0].Recv(ctx, 1, make([]byte, 1)) }()
		<-inside
		err := c.groups[0].Barrier(ctx)
		require.ErrorIs(t, err, collective.ErrMisuse)
		require.Equal(t, err, <-first)
	})
}
