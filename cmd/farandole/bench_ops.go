package main

import (
	"fmt"
	"slices"

	"github.com/farandole-ml/farandole/collective"
)

// benchOp is an operation that `bench` measures.
type benchOp struct {
	name, short string
	kind        collective.OpKind
	reduces     bool
	rooted      bool
	inParts     bool // the input has a part for every rank; the size is that of all parts together
	outParts    bool // the output has one of every rank
	outOfPlace  bool // can be measured out of place
	inPlace     bool // can be measured in place
	factorText  string
	factor      func(n float64) float64 // busbw/algbw for n ranks
}

// The bus bandwidth is what a link of every rank must carry in the best algorithm, so that it compares with what the
// hardware can move, whatever the operation and the number of ranks. docs/performance.md derives the factors.
var (
	factorOne   = func(float64) float64 { return 1 }
	factorShare = func(n float64) float64 { return (n - 1) / n }
	factorTwice = func(n float64) float64 { return 2 * (n - 1) / n }
)

var benchOps = []benchOp{
	{
		name: "all_reduce", short: "Reduce an array over all ranks, and give all of them the result", kind: collective.OpAllReduce,
		reduces: true, outOfPlace: true, inPlace: true, factorText: "2(n-1)/n", factor: factorTwice,
	},
	{
		name: "reduce_scatter", short: "Reduce an array over all ranks, and give each a part of the result", kind: collective.OpReduceScatter,
		reduces: true, inParts: true, outOfPlace: true, inPlace: true, factorText: "(n-1)/n", factor: factorShare,
	},
	{
		name: "all_gather", short: "Collect every rank's part on all ranks", kind: collective.OpAllGather,
		outParts: true, outOfPlace: true, inPlace: true, factorText: "(n-1)/n", factor: factorShare,
	},
	{
		name: "broadcast", short: "Send one rank's array to all ranks", kind: collective.OpBroadcast,
		rooted: true, inPlace: true, factorText: "1", factor: factorOne,
	},
	{
		name: "reduce", short: "Reduce an array over all ranks, and give one of them the result", kind: collective.OpReduce,
		reduces: true, rooted: true, outOfPlace: true, inPlace: true, factorText: "1", factor: factorOne,
	},
	{
		name: "all_to_all", short: "Send a part of every rank's array to each rank", kind: collective.OpAllToAll,
		inParts: true, outParts: true, outOfPlace: true, inPlace: true, factorText: "(n-1)/n", factor: factorShare,
	},
	{
		name: "sendrecv", short: "Send an array to the next rank while one comes from the rank before", kind: collective.OpSendRecv,
		outOfPlace: true, factorText: "1", factor: factorOne,
	},
	{
		name: "barrier", short: "Wait for all ranks: the latency of an empty operation", kind: collective.OpBarrier,
		outOfPlace: true, factorText: "0", factor: func(float64) float64 { return 0 },
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

// divided says whether a size is divided among the ranks.
func (o benchOp) divided() bool { return o.inParts || o.outParts }

// benchPlace says whether the result replaces the input.
type benchPlace string

const (
	outOfPlace benchPlace = "out"
	inPlace    benchPlace = "in"
)

// places are those of the wanted ones that the operation has.
func (o benchOp) places(want string) (out []benchPlace) {
	if o.outOfPlace && want != string(inPlace) {
		out = append(out, outOfPlace)
	}
	if o.inPlace && want != string(outOfPlace) {
		out = append(out, inPlace)
	}
	return out
}

// benchTree is the algorithm name that asks for sums in the order of the reduction tree.
const benchTree = "tree"

// benchCell is one measurement: one size of one operation in one place. It travels to the ranks as JSON.
type benchCell struct {
	Op        string
	Place     benchPlace
	Bytes     int64 // of the whole: all ranks' parts together where there are parts
	Type      string
	Redop     string // empty: the operation reduces nothing
	Root      int
	Algorithm string // of collective, or benchTree
	Shards    int    // of benchTree; 0: as many as ranks
	Private   bool   // ordinary memory, even where the transport has its own
	Iters     int
	Warmup    int
	Check     bool
}

// count is nccl-tests' column: elements of one rank's part, or of the whole where there are no parts.
func (c benchCell) count(op benchOp, size, ranks int) int64 {
	n := c.Bytes / int64(size)
	if op.divided() {
		n /= int64(ranks)
	}
	return n
}

func (c benchCell) String() string {
	s := fmt.Sprintf("%s of %s", c.Op, bytesText(c.Bytes))
	if c.Place == inPlace {
		s += " in place"
	}
	return s
}

// algorithmFits says whether an operation can be asked for by a.
func (o benchOp) algorithmFits(a collective.Algorithm) bool {
	return a == collective.Auto || slices.Contains(o.kind.Algorithms(), a)
}

// algorithmNames are what --algorithm takes.
func (o benchOp) algorithmNames() []string {
	names := []string{collective.Auto.String()}
	for _, a := range o.kind.Algorithms() {
		names = append(names, a.String())
	}
	return names
}
