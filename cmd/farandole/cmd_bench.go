package main

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
)

// benchOptions are the flags of `bench OP`; their short forms are those of nccl-tests.
type benchOptions struct {
	ranks         int
	minText       string
	maxText       string
	factor        int
	iters, warmup int
	algorithm     string
	shards        int
	checksum      bool
	output        string
}

// Limits of a benchmark.
const (
	maxBenchRanks = 256
	maxBenchBytes = 8 << 30
	maxBenchIters = 1_000_000
)

func newBenchCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure collectives, matrix products and training steps",
		Args:  unknownCommand,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	for _, op := range benchOps {
		cmd.AddCommand(newBenchOpCommand(op))
	}
	cmd.AddCommand(newBenchStepCommand(), newBenchGEMMCommand(), newBenchRankCommand(), newBenchTrainerCommand())
	return cmd
}

func newBenchOpCommand(op benchOp) *cobra.Command {
	o := &benchOptions{}
	cmd := &cobra.Command{
		Use:   op.name,
		Short: op.short,
		Long: op.short + `, between processes on this host over TCP on the loopback interface.

The columns are those of nccl-tests: algbw is size/time; busbw is algbw times ` + op.factorText + `, which does not depend
on the number of ranks and compares with what the hardware can move. Time is the median over iterations of the
slowest rank. Every size is checked against the known result before and after it is timed; #wrong counts elements.`,
		Example: "  farandole bench " + op.name + " -n 4 -b 1K -e 64M -f 4",
		Args:    exactArgs(),
		RunE:    func(cmd *cobra.Command, _ []string) error { return runBench(cmd, op, o) },
	}
	f := cmd.Flags()
	f.IntVarP(&o.ranks, "ranks", "n", 2, "processes")
	f.StringVarP(&o.minText, "minbytes", "b", "1K", "smallest `size`, in bytes or with K, M, G (powers of 1024)")
	f.StringVarP(&o.maxText, "maxbytes", "e", "256M", "largest `size`")
	f.IntVarP(&o.factor, "stepfactor", "f", 4, "each size is the one before times this")
	f.IntVar(&o.iters, "iters", 20, "timed iterations of each size")
	f.IntVar(&o.warmup, "warmup", 5, "iterations before them")
	if op.name == "all_reduce" {
		f.StringVar(&o.algorithm, "algorithm", "ring", "ring, or tree: summed in the order of the reduction tree")
		f.IntVar(&o.shards, "shards", 0, "logical shards of the tree (0: as many as ranks)")
	}
	f.BoolVar(&o.checksum, "checksum", false, "protect messages by a CRC-32C, as training jobs may")
	f.StringVarP(&o.output, "output", "o", "table", "table, csv or json")
	return cmd
}

// sizes checks the options and gives the sizes to measure.
func (o *benchOptions) sizes(op benchOp) ([]int64, error) {
	low, err := parseSize(o.minText)
	if err != nil {
		return nil, usagef("-b %w", err)
	}
	high, err := parseSize(o.maxText)
	if err != nil {
		return nil, usagef("-e %w", err)
	}
	unit := int64(4)
	if op.perRank {
		unit *= int64(o.ranks)
	}
	switch {
	case o.ranks < 1 || o.ranks > maxBenchRanks:
		return nil, usagef("-n wants 1 to %d ranks, not %d", maxBenchRanks, o.ranks)
	case low > high:
		return nil, usagef("-b %s is larger than -e %s", o.minText, o.maxText)
	case low < 4:
		return nil, usagef("-b wants 4 bytes or more: one float32")
	case high > maxBenchBytes:
		return nil, usagef("-e wants at most 8G, not %s", o.maxText)
	case o.factor < 2 && low != high:
		return nil, usagef("-f wants a factor of 2 or more, not %d", o.factor)
	case o.iters < 1 || o.iters > maxBenchIters:
		return nil, usagef("--iters wants 1 to %d, not %d", maxBenchIters, o.iters)
	case o.warmup < 0 || o.warmup > maxBenchIters:
		return nil, usagef("--warmup wants 0 to %d, not %d", maxBenchIters, o.warmup)
	case o.algorithm == "tree" && o.shards != 0 && o.shards < o.ranks:
		return nil, usagef("--shards %d is fewer than the %d ranks: every rank needs one", o.shards, o.ranks)
	case o.algorithm == "ring" && o.shards != 0:
		return nil, usagef("--shards belongs to --algorithm tree")
	case o.shards < 0 || o.shards > 1<<16:
		return nil, usagef("--shards wants a number up to 65536, not %d", o.shards)
	}
	if op.name == "all_reduce" {
		if err := oneOf("--algorithm", o.algorithm, "ring", "tree"); err != nil {
			return nil, err
		}
	}
	if err := oneOf("-o", o.output, "table", "csv", "json"); err != nil {
		return nil, err
	}
	var sizes []int64
	for n := low; n <= high; n *= int64(o.factor) {
		if whole := n / unit * unit; whole > 0 {
			sizes = append(sizes, whole)
		}
		if o.factor < 2 {
			break
		}
	}
	if len(sizes) == 0 {
		return nil, usagef("-e %s is less than one float32 for each rank", o.maxText)
	}
	return sizes, nil
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
