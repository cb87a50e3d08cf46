package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/farandole-ml/farandole/collective"
	"github.com/farandole-ml/farandole/collective/transport/tcp"
)

// A rank of `bench` is this program again. It prints its data-plane address, reads its task, and prints a result for
// each size, all as JSON lines over its standard streams. It ends when its standard input does.

// benchTask is what a rank is to do.
type benchTask struct {
	Op        string
	Rank      int
	Addrs     []string
	Sizes     []int64
	Iters     int
	Warmup    int
	Algorithm string
	Shards    int
}

// benchResult is one size on one rank.
type benchResult struct {
	Size  int64
	Wrong int64
	Nanos []int64 // of each timed iteration
	Err   string
}

// Limits of a rank.
const (
	benchForm    = 20 * time.Second // for all ranks to connect
	benchOpLimit = 60 * time.Second // for one operation, check or barrier
	benchIdle    = 60 * time.Second // a peer's host may leave data unacknowledged for this long
)

func newBenchRankCommand() *cobra.Command {
	var checksum bool
	cmd := &cobra.Command{
		Use:    "rank",
		Hidden: true,
		Args:   exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			enc := json.NewEncoder(cmd.OutOrStdout())
			if err := benchRank(cmd.Context(), checksum, os.Stdin, enc); err != nil {
				_ = enc.Encode(benchResult{Err: err.Error()})
				return &exitError{exitFailed, nil}
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&checksum, "checksum", false, "")
	return cmd
}

func benchRank(ctx context.Context, checksum bool, stdin io.Reader, enc *json.Encoder) error {
	l, err := tcp.Listen("127.0.0.1:0", tcp.Config{Liveness: benchIdle, Checksum: checksum, Logger: discardLog()})
	if err != nil {
		return err
	}
	defer l.Close()
	if err := enc.Encode(l.Addr()); err != nil {
		return err
	}
	in := bufio.NewReader(stdin)
	line, err := in.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("no task came: %w", err)
	}
	var t benchTask
	if err := json.Unmarshal(line, &t); err != nil {
		return fmt.Errorf("read the task: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { // the parent is gone, or wants us to be
		_, _ = io.Copy(io.Discard, in)
		cancel()
	}()
	fctx, fcancel := context.WithTimeout(ctx, benchForm)
	defer fcancel()
	tr, err := l.Connect(fctx, tcp.ID{Job: "bench", Generation: 1, Rank: t.Rank}, t.Addrs)
	if err != nil {
		return err
	}
	g := collective.New(tr)
	defer g.Close()
	op, err := benchOpByName(t.Op)
	if err != nil {
		return err
	}
	for _, size := range t.Sizes {
		r, err := benchSize(ctx, g, op, t, size)
		if err != nil {
			return fmt.Errorf("%s of %s: %w", op.name, bytesText(size), err)
		}
		if err := enc.Encode(r); err != nil {
			return err
		}
	}
	return nil
}

// benchSize checks, warms up, times and checks again.
func benchSize(ctx context.Context, g *collective.Group, op benchOp, t benchTask, size int64) (benchResult, error) {
	res := benchResult{Size: size, Nanos: make([]int64, 0, t.Iters)}
	run, err := op.prepare(g, t, size)
	if err != nil {
		return res, err
	}
	within := func(f func(context.Context) error) error {
		ctx, cancel := context.WithTimeout(ctx, benchOpLimit)
		defer cancel()
		return f(ctx)
	}
	check := func(pass int) error {
		run.fill(pass)
		if err := within(run.op); err != nil {
			return err
		}
		res.Wrong += run.check(pass)
		return within(g.Barrier)
	}
	if err := check(1); err != nil {
		return res, err
	}
	// Zeros stay zeros however often they are added, where other values would overflow and change the timing.
	run.fill(zeroPass)
	for range t.Warmup {
		if err := within(run.op); err != nil {
			return res, err
		}
	}
	if err := within(g.Barrier); err != nil {
		return res, err
	}
	octx, cancel := context.WithTimeout(ctx, benchOpLimit*time.Duration(t.Iters))
	defer cancel()
	for range t.Iters {
		began := time.Now()
		if err := run.op(octx); err != nil {
			return res, err
		}
		res.Nanos = append(res.Nanos, time.Since(began).Nanoseconds())
	}
	if err := within(g.Barrier); err != nil {
		return res, err
	}
	return res, check(2)
}
