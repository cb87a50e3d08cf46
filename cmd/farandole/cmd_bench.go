package main

import (
	"errors"
	"fmt"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

func newBenchCommand() *cobra.Command {
	o := newBenchOptions()
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure collectives, matrix products and training steps",
		Long: `Bench measures what the name behind it says. With --tune and no name it measures every algorithm of every
collective operation, and writes a table of the fastest, for --table.`,
		Example: `  farandole bench all_reduce -n 4 --transport tcp -b 1K -e 64M
  farandole bench --tune -n 4 --transport tcp -o table.json`,
		Args: unknownCommand,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !o.tune {
				return cmd.Help()
			}
			return runBenchTune(cmd, benchOps, o)
		},
	}
	o.addFlags(cmd.Flags())
	o.addSizeFlags(cmd.Flags())
	o.addTuneFlag(cmd.Flags())
	for _, op := range benchOps {
		cmd.AddCommand(newBenchOpCommand(op))
	}
	cmd.AddCommand(newBenchStepCommand(), newBenchGEMMCommand(), newBenchRankCommand(), newBenchWorkerCommand(), newBenchTrainerCommand())
	return cmd
}

func newBenchOpCommand(op benchOp) *cobra.Command {
	o := newBenchOptions()
	cmd := &cobra.Command{
		Use:   op.name,
		Short: op.short,
		Long: op.short + `, between processes on this host, or with --coordinator on the hosts of its agents.

The columns are those of nccl-tests: algbw is size/time; busbw is algbw times ` + op.factorText + `, which does not depend
on the number of ranks and compares with what the hardware can move. Time is the median over samples of the slowest
rank, for one operation; a sample begins when all ranks are ready. Every result is compared with the exact one before
and after it is timed; #wrong counts elements.`,
		Example: "  farandole bench " + op.name + " -n 4 -b 1K -e 64M -f 4 --save runs\n" +
			"  farandole bench " + op.name + " -n 4 -b 1K -e 64M -f 4 --compare runs --plot busbw.png",
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.tune {
				return runBenchTune(cmd, []benchOp{op}, o)
			}
			return runBench(cmd, op, o)
		},
	}
	o.addFlags(cmd.Flags())
	o.addOpFlags(op, cmd.Flags())
	return cmd
}

// runBench measures one operation and prints, keeps and draws the result.
func runBench(cmd *cobra.Command, op benchOp, o *benchOptions) error {
	if err := o.validate(op); err != nil {
		return err
	}
	cells, err := o.cells(op)
	if err != nil {
		return err
	}
	task, err := o.task(cells)
	if err != nil {
		return err
	}
	earlier, err := loadEarlier(op, o)
	if err != nil {
		return err
	}
	p := newBenchPrinter(cmd.OutOrStdout(), op, o, earlier)
	p.head()
	err = o.measure(cmd, task, func(t benchTiming) error {
		c := cells[t.Cell]
		last := t.Cell+1 == len(cells) || cells[t.Cell+1].Bytes != c.Bytes
		p.row(newBenchRow(op, o.ranks, c, t), last)
		return nil
	})
	if err != nil {
		return benchError("bench "+op.name, err)
	}
	if err := p.foot(); err != nil {
		return err
	}
	if o.save != "" {
		if err := saveReport(o.save, o.fileName(op), p.report); err != nil {
			return err
		}
	}
	if o.plot != "" {
		return plotReport(o.plot, p.report, earlier)
	}
	return nil
}

// benchError adds what was measured to an error that has no exit code of its own.
func benchError(what string, err error) error {
	var x *exitError
	if errors.As(err, &x) {
		return err
	}
	return failf("%s: %w", what, err)
}

// task is what the ranks are to do.
func (o *benchOptions) task(cells []benchCell) (*benchTask, error) {
	table, err := o.readTable()
	if err != nil {
		return nil, err
	}
	return &benchTask{Ranks: o.ranks, Transport: o.transport, Checksum: o.checksum, Provider: o.provider, Table: table, Cells: cells}, nil
}

// measure runs the ranks where the options say and hands on each cell's timing, in order. An interrupt ends them all.
func (o *benchOptions) measure(cmd *cobra.Command, task *benchTask, each func(benchTiming) error) error {
	t, err := benchTransportByName(o.transport)
	if err != nil {
		return usagef("--transport %w", err)
	}
	warn := func(format string, args ...any) {
		fmt.Fprintf(cmd.ErrOrStderr(), "farandole: "+format+"\n", args...)
	}
	hand := each
	each = func(t benchTiming) error {
		for _, n := range t.Notes {
			warn("%s", n)
		}
		return hand(t)
	}
	ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	switch {
	case o.coordinator != "":
		err = benchByJob(ctx, o.coordinator, o.program, task, warn, each)
	case t.here:
		err = benchInProcess(ctx, task, each)
	default:
		err = benchLocally(ctx, task, each)
	}
	if ctx.Err() != nil {
		return &exitError{exitInterrupted, errors.New("interrupted")}
	}
	return err
}
