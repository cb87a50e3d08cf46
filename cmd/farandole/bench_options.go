package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	"github.com/farandole-ml/farandole/collective"
	"github.com/farandole-ml/farandole/kernels"
)

// benchOptions are the flags of `bench OP`; the short forms are those of nccl-tests.
type benchOptions struct {
	ranks         int
	minText       string
	maxText       string
	factor        int
	iters, warmup int
	check         bool
	transport     string
	provider      string
	algorithm     string
	shards        int
	dtype, redop  string
	root          int
	place         string
	buffers       string
	checksum      bool
	table         string
	output        string
	save, compare string
	plot          string
	tune          bool
	coordinator   string
	program       string
}

// Limits of a benchmark.
const (
	maxBenchRanks  = 256
	maxBenchBytes  = 8 << 30
	maxBenchIters  = 1_000_000
	maxBenchShards = 1 << 16
	maxTableBytes  = 16 << 20
)

// newBenchOptions are the defaults of what not every operation has a flag for.
func newBenchOptions() *benchOptions {
	return &benchOptions{minText: "1K", maxText: "256M", factor: 4, check: true, place: "both", dtype: "float32"}
}

// addFlags adds the flags that every measurement has.
func (o *benchOptions) addFlags(f *pflag.FlagSet) {
	f.IntVarP(&o.ranks, "ranks", "n", 2, "processes")
	f.IntVar(&o.iters, "iters", 0, fmt.Sprintf("timed samples of each size, of which one of up to 64K is a batch of %d operations (0: as many as take %v, from %d to %d)",
		benchBatch, benchBudget, minBenchSamples, maxBenchSamples))
	f.IntVar(&o.warmup, "warmup", 5, "operations before them")
	f.StringVar(&o.transport, "transport", "auto", "how ranks reach one another: "+orList(benchTransportNames())+"; auto is the best way between each two")
	f.StringVar(&o.provider, "provider", "", "libfabric's `name` of the network for --transport fabric, such as tcp, shm, verbs or efa (default: the first that fits)")
	f.BoolVar(&o.checksum, "checksum", false, "protect messages by a CRC-32C, as training jobs may")
	f.StringVar(&o.coordinator, "coordinator", "", "`host:port` of a coordinator, whose agents' hosts run the ranks, instead of this one")
	f.StringVar(&o.program, "program", "", "`path` of farandole on the agents' hosts, with --coordinator (default: this program's own path)")
	f.StringVarP(&o.output, "output", "o", "table", "table, csv or json; with --tune the file to write")
}

// addSizeFlags adds those of operations that move something.
func (o *benchOptions) addSizeFlags(f *pflag.FlagSet) {
	f.StringVarP(&o.minText, "minbytes", "b", o.minText, "smallest `size`, in bytes or with K, M, G (powers of 1024)")
	f.StringVarP(&o.maxText, "maxbytes", "e", o.maxText, "largest `size`")
	f.IntVarP(&o.factor, "stepfactor", "f", o.factor, "each size is the one before times this")
	f.BoolVar(&o.check, "check", o.check, "compare every size's result with the exact one, before and after it is timed")
	f.StringVar(&o.dtype, "dtype", o.dtype, "`type` of the elements: "+orList(dtypeNames()))
	f.StringVar(&o.buffers, "buffers", "", "registered: memory that the transport gives and reduces in place; private: any other (default: registered where there is such memory)")
}

// addTuneFlag adds --tune to what has a choice of algorithms.
func (o *benchOptions) addTuneFlag(f *pflag.FlagSet) {
	f.BoolVar(&o.tune, "tune", false, "measure every algorithm, and write a table of the fastest for --table")
}

// addOpFlags adds what belongs to one operation.
func (o *benchOptions) addOpFlags(op benchOp, f *pflag.FlagSet) {
	if op.kind != collective.OpBarrier {
		o.addSizeFlags(f)
	}
	if op.outOfPlace && op.inPlace {
		f.StringVar(&o.place, "place", o.place, "out, in or both: whether the result replaces the input")
	}
	if len(messageAlgorithms(op)) > 1 {
		o.addTuneFlag(f)
	}
	if op.reduces {
		f.StringVar(&o.redop, "redop", "sum", "sum, prod, min, max or avg")
	}
	if op.rooted {
		f.IntVar(&o.root, "root", 0, "the rank that sends to, or receives from, all others")
	}
	if op.kind != collective.OpSendRecv && op.kind != collective.OpBarrier {
		names := strings.Join(op.algorithmNames(), ", ")
		if op.kind == collective.OpAllReduce {
			names += "; or tree: float32 summed in the order of the reduction tree"
			f.IntVar(&o.shards, "shards", 0, "logical shards of --algorithm tree (0: as many as ranks)")
		}
		f.StringVar(&o.algorithm, "algorithm", "auto", names)
		f.StringVar(&o.table, "table", "", "`file` of --tune, by which auto chooses instead of the built-in table")
	}
	f.StringVar(&o.save, "save", "", "`directory` to keep the result in, for --compare")
	f.StringVar(&o.compare, "compare", "", "earlier result to print the ratio to: a `directory` of --save, or one file of it")
	f.StringVar(&o.plot, "plot", "", "`file` for a picture (PNG) of time and bus bandwidth by size")
}

// validate refuses what cannot be measured, in one sentence.
func (o *benchOptions) validate(op benchOp) error {
	switch {
	case o.ranks < 1 || o.ranks > maxBenchRanks:
		return usagef("-n wants 1 to %d ranks, not %d", maxBenchRanks, o.ranks)
	case o.iters < 0 || o.iters > maxBenchIters:
		return usagef("--iters wants 1 to %d, or 0 for as many as fit, not %d", maxBenchIters, o.iters)
	case o.warmup < 0 || o.warmup > maxBenchIters:
		return usagef("--warmup wants 0 to %d, not %d", maxBenchIters, o.warmup)
	case op.kind == collective.OpSendRecv && o.ranks < 2:
		return usagef("sendrecv needs two ranks or more: -n 2")
	case o.root < 0 || o.root >= o.ranks:
		return usagef("--root wants a rank from 0 to %d, not %d", o.ranks-1, o.root)
	case o.program != "" && o.coordinator == "":
		return usagef("--program belongs to --coordinator")
	}
	if err := oneOf("--place", o.place, "both", "out", "in"); err != nil {
		return err
	}
	if _, err := kernels.ParseDType(o.dtype); err != nil {
		return usagef("--dtype wants %s, not %q", orList(dtypeNames()), o.dtype)
	}
	if op.reduces {
		if _, err := collective.ParseRedOp(o.redop); err != nil {
			return usagef("--redop wants sum, prod, min, max or avg, not %q", o.redop)
		}
	}
	if err := o.checkAlgorithm(op); err != nil {
		return err
	}
	if err := o.checkTransport(); err != nil {
		return err
	}
	return o.checkFiles()
}

func (o *benchOptions) checkAlgorithm(op benchOp) error {
	tree := o.algorithm == benchTree && op.kind == collective.OpAllReduce
	if o.algorithm != "" && !tree {
		if a, err := collective.ParseAlgorithm(o.algorithm); err != nil || !op.algorithmFits(a) {
			return usagef("--algorithm for %s wants %s, not %q", op.name, orList(op.algorithmNames()), o.algorithm)
		}
	}
	switch {
	case tree && o.dtype != "float32":
		return usagef("--algorithm tree sums float32 alone, not %s", o.dtype)
	case tree && o.redop != "sum":
		return usagef("--algorithm tree sums: it has no --redop %s", o.redop)
	case o.shards < 0 || o.shards > maxBenchShards:
		return usagef("--shards wants a number up to %d, not %d", maxBenchShards, o.shards)
	case tree && o.shards != 0 && o.shards < o.ranks:
		return usagef("--shards %d is fewer than the %d ranks: every rank needs one", o.shards, o.ranks)
	case !tree && o.shards != 0:
		return usagef("--shards belongs to --algorithm tree")
	}
	return nil
}

func (o *benchOptions) checkTransport() error {
	t, err := benchTransportByName(o.transport)
	if err != nil {
		return usagef("--transport %w", err)
	}
	if err := oneOf("--buffers", o.buffers, "", "registered", "private"); err != nil {
		return usagef("--buffers wants registered or private, not %q", o.buffers)
	}
	switch {
	case o.buffers == "registered" && !t.registers:
		return usagef("--buffers registered wants a transport that has memory to give, which %s has not", o.transport)
	case o.algorithm == collective.Shared.String() && !t.registers:
		return usagef("--algorithm shared wants a transport whose ranks share memory, which %s is not", o.transport)
	case o.checksum && !t.checksums:
		return usagef("--checksum: %s has no checksums", o.transport)
	case o.provider != "" && o.transport != "fabric":
		return usagef("--provider belongs to --transport fabric")
	case t.here && o.coordinator != "":
		return usagef("--transport %s stays within one process, and --coordinator starts many: use tcp", o.transport)
	}
	if t.ready != nil && o.coordinator == "" { // other hosts' builds may have it
		if err := t.ready(); err != nil {
			return usagef("--transport %s: %w", o.transport, err)
		}
	}
	return nil
}

// checkFiles finds out before the measurement what would fail after it.
func (o *benchOptions) checkFiles() error {
	if o.tune {
		switch {
		case o.save != "" || o.compare != "" || o.plot != "":
			return usagef("--tune writes a table: --save, --compare and --plot belong to a measurement")
		case o.algorithm != "" && o.algorithm != "auto":
			return usagef("--tune measures every algorithm: leave --algorithm out")
		case o.table != "":
			return usagef("--tune makes a table, --table uses one: give one of them")
		case o.output == "json" || o.output == "csv":
			return usagef("--tune writes a file: -o table.json")
		case o.output != "table":
			return writableFile("-o", o.output)
		}
		return nil
	}
	if err := oneOf("-o", o.output, "table", "csv", "json"); err != nil {
		return err
	}
	if o.plot != "" {
		if ext := filepath.Ext(o.plot); ext != ".png" {
			return usagef("--plot %s: the picture is a PNG: name it so", o.plot)
		}
		if err := writableFile("--plot", o.plot); err != nil {
			return err
		}
	}
	if o.save != "" {
		return writableDir("--save", o.save)
	}
	return nil
}

// readTable gives the selection table of --table as JSON, checked; nil without one.
func (o *benchOptions) readTable() ([]byte, error) {
	if o.table == "" {
		return nil, nil
	}
	if st, err := os.Stat(o.table); err == nil && st.Size() > maxTableBytes {
		return nil, usagef("--table %s has %s: no table is that large", o.table, bytesText(st.Size()))
	}
	b, err := os.ReadFile(o.table)
	if err != nil {
		return nil, usagef("--table %s cannot be read: %v", o.table, causeOf(err))
	}
	if _, err := collective.ParseTable(b); err != nil {
		return nil, usagef("--table %s: %w", o.table, err)
	}
	return b, nil
}

// sizes are the sizes to measure: whole elements of every rank's part.
func (o *benchOptions) sizes(op benchOp) ([]int64, error) {
	if op.kind == collective.OpBarrier {
		return []int64{0}, nil
	}
	low, err := parseSize(o.minText)
	if err != nil {
		return nil, usagef("-b %w", err)
	}
	high, err := parseSize(o.maxText)
	if err != nil {
		return nil, usagef("-e %w", err)
	}
	t, err := kernels.ParseDType(o.dtype)
	if err != nil {
		return nil, usagef("--dtype: %w", err)
	}
	unit := int64(t.Size())
	what := "one " + t.String()
	if op.divided() {
		unit *= int64(o.ranks)
		what += " for each rank"
	}
	switch {
	case low > high:
		return nil, usagef("-b %s is larger than -e %s", o.minText, o.maxText)
	case high > maxBenchBytes:
		return nil, usagef("-e wants at most 8G, not %s", o.maxText)
	case o.factor < 2 && low != high:
		return nil, usagef("-f wants a factor of 2 or more, not %d", o.factor)
	case high < unit:
		return nil, usagef("-e %s is less than %s", o.maxText, what)
	}
	var sizes []int64
	for n := max(low, 1); n <= high; n *= int64(max(o.factor, 2)) {
		if whole := max(n/unit*unit, unit); !slices.Contains(sizes, whole) {
			sizes = append(sizes, whole)
		}
	}
	return sizes, nil
}

// cells are all measurements, by size, then by place.
func (o *benchOptions) cells(op benchOp) ([]benchCell, error) {
	sizes, err := o.sizes(op)
	if err != nil {
		return nil, err
	}
	var cells []benchCell
	for _, n := range sizes {
		for _, p := range op.places(o.place) {
			cells = append(cells, o.cell(op, p, n))
		}
	}
	return cells, nil
}

func (o *benchOptions) cell(op benchOp, p benchPlace, bytes int64) benchCell {
	c := benchCell{Op: op.name, Place: p, Bytes: bytes, Type: o.dtype, Root: o.root, Algorithm: o.algorithm, Shards: o.shards,
		Private: o.private(), Iters: o.iters, Warmup: o.warmup, Check: o.check}
	if op.reduces {
		c.Redop = o.redop
	}
	return c
}

// private says whether the memory is the program's own.
func (o *benchOptions) private() bool {
	t, err := benchTransportByName(o.transport)
	return o.buffers == "private" || err != nil || !t.registers
}

// parseSize reads 512, 64K, 1M, 2G, and the same with a B or iB behind.
func parseSize(s string) (int64, error) {
	text := strings.TrimSuffix(strings.TrimSuffix(strings.ToUpper(strings.TrimSpace(s)), "B"), "I")
	mult := int64(1)
	if n := len(text); n > 0 {
		if i := strings.IndexByte("KMG", text[n-1]); i >= 0 {
			mult, text = int64(1)<<(10*(i+1)), text[:n-1]
		}
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 || n > (1<<62)/mult {
		return 0, fmt.Errorf("wants a size such as 512, 64K or 256M, not %q", s)
	}
	return n * mult, nil
}
