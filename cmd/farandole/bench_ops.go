package main

import (
	"context"
	"fmt"

	"github.com/farandole-ml/farandole/collective"
	"github.com/farandole-ml/farandole/elastic"
)

// benchOp is an operation that `bench` measures.
type benchOp struct {
	name, short string
	redop       string // as nccl-tests prints it; "none" when nothing is reduced
	perRank     bool   // the size is that of all ranks' parts together
	factorText  string
	factor      func(n float64) float64 // busbw/algbw for n ranks
	prepare     func(g *collective.Group, t benchTask, size int64) (*benchRun, error)
}

// benchRun is one size of one operation on one rank.
type benchRun struct {
	fill  func(pass int) // sets the input
	op    func(ctx context.Context) error
	check func(pass int) int64 // counts wrong elements of the result
}

var benchOps = []benchOp{
	{
		name: "all_reduce", short: "Sum an array over all ranks", redop: "sum",
		factorText: "2(n-1)/n", factor: func(n float64) float64 { return 2 * (n - 1) / n },
		prepare: prepareAllReduce,
	},
	{
		name: "all_gather", short: "Collect every rank's part on all ranks", redop: "none", perRank: true,
		factorText: "(n-1)/n", factor: func(n float64) float64 { return (n - 1) / n },
		prepare: prepareAllGather,
	},
	{
		name: "broadcast", short: "Send rank 0's array to all ranks", redop: "none",
		factorText: "1", factor: func(float64) float64 { return 1 },
		prepare: prepareBroadcast,
	},
}

func benchOpByName(name string) (benchOp, error) {
	for _, op := range benchOps {
		if op.name == name {
			return op, nil
		}
	}
	return benchOp{}, fmt.Errorf("no operation %q", name)
}

// zeroPass is a pass whose inputs are all zero.
const zeroPass = 0

// benchValue is element i of input part in a pass: a small integer, so that every sum is exact in any order and
// a wrong element, a wrong part or a result of another pass shows.
func benchValue(pass, part, i int) float32 {
	if pass == zeroPass {
		return 0
	}
	return float32((i*7+part*13+pass*29)%61 - 30)
}

// prepareAllReduce makes one input for each tree node that the rank holds; with the ring, just one.
func prepareAllReduce(g *collective.Group, t benchTask, size int64) (*benchRun, error) {
	n := int(size / 4)
	shards := t.Shards
	if shards == 0 {
		shards = g.World()
	}
	tree := t.Algorithm == "tree"
	ranges := elastic.Assign(shards, g.World())
	nodes := []elastic.Range{{First: g.Rank(), End: g.Rank() + 1}}
	if tree {
		nodes = elastic.Partials(ranges[g.Rank()], shards)
	} else {
		shards = g.World()
	}
	partials := make([]collective.Partial, len(nodes))
	for i, node := range nodes {
		partials[i] = collective.Partial{Node: node, Data: make([]float32, n)}
	}
	out := partials[0].Data
	return &benchRun{
		fill: func(pass int) {
			for _, p := range partials {
				for i := range p.Data {
					p.Data[i] = benchSum(pass, p.Node.First, p.Node.End, i)
				}
			}
		},
		op: func(ctx context.Context) error {
			if tree {
				return g.ReduceTree(ctx, out, partials, ranges, shards)
			}
			return g.AllReduce(ctx, collective.Of(out), collective.Of(out), collective.Sum)
		},
		check: func(pass int) (wrong int64) {
			for i, v := range out {
				if v != benchSum(pass, 0, shards, i) {
					wrong++
				}
			}
			return wrong
		},
	}, nil
}

// benchSum is what parts [first, end) add up to.
func benchSum(pass, first, end, i int) float32 {
	var s float32
	for part := first; part < end; part++ {
		s += benchValue(pass, part, i)
	}
	return s
}

func prepareAllGather(g *collective.Group, _ benchTask, size int64) (*benchRun, error) {
	n := int(size/4) / g.World()
	all := make([]float32, n*g.World())
	mine := all[g.Rank()*n : (g.Rank()+1)*n]
	return &benchRun{
		fill: func(pass int) {
			clear(all)
			for i := range mine {
				mine[i] = benchValue(pass, g.Rank(), i)
			}
		},
		op: func(ctx context.Context) error { return g.AllGather(ctx, collective.Of(all), collective.Of(mine)) },
		check: func(pass int) (wrong int64) {
			for i, v := range all {
				if v != benchValue(pass, i/n, i%n) {
					wrong++
				}
			}
			return wrong
		},
	}, nil
}

func prepareBroadcast(g *collective.Group, _ benchTask, size int64) (*benchRun, error) {
	b := make([]float32, size/4)
	return &benchRun{
		fill: func(pass int) {
			clear(b)
			if g.Rank() == 0 {
				for i := range b {
					b[i] = benchValue(pass, 0, i)
				}
			}
		},
		op: func(ctx context.Context) error { return g.Broadcast(ctx, collective.Of(b), 0) },
		check: func(pass int) (wrong int64) {
			for i, v := range b {
				if v != benchValue(pass, 0, i) {
					wrong++
				}
			}
			return wrong
		},
	}, nil
}
