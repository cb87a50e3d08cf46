package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/farandole-ml/farandole/collective"
	"github.com/farandole-ml/farandole/collective/transport"
)

// A local rank of `bench` is this program again. It prints its address, reads where the others are, and prints a result
// for each cell, all as JSON lines over its standard streams. It ends when its standard input does.

// benchIdle is how long a peer's host may leave data unacknowledged.
const benchIdle = 60 * time.Second

// benchTask is what all ranks of a benchmark do.
type benchTask struct {
	Ranks     int
	Transport string
	Checksum  bool
	Provider  string
	Table     json.RawMessage `json:",omitempty"` // of --table
	Cells     []benchCell
}

// benchSeat is what one rank needs to know besides.
type benchSeat struct {
	Rank  int
	Addrs []string
}

// group makes the group of a connected rank.
func (t *benchTask) group(tr collective.Transport, notes *benchNotes) (*collective.Group, error) {
	tuning := collective.Tuning{Logger: notes.logger()}
	if t.Table != nil {
		table, err := collective.ParseTable(t.Table)
		if err != nil {
			_ = tr.Close()
			return nil, err
		}
		tuning.Table = table
	}
	return collective.NewTuned(tr, tuning), nil
}

// measure does all cells on one rank and hands on each result.
func (t *benchTask) measure(ctx context.Context, g *collective.Group, notes *benchNotes, each func(benchResult) error) error {
	for i, c := range t.Cells {
		r, err := measureCell(ctx, g, c)
		if err != nil {
			return fmt.Errorf("%s: %w", c, err)
		}
		r.Cell, r.Notes = i, notes.take()
		if err := each(r); err != nil {
			return err
		}
	}
	return nil
}

func newBenchRankCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "rank",
		Hidden: true,
		Args:   exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			enc := json.NewEncoder(cmd.OutOrStdout())
			if err := benchRank(cmd.Context(), os.Stdin, enc); err != nil {
				_ = enc.Encode(benchResult{Err: err.Error()})
				return &exitError{exitFailed, nil}
			}
			return nil
		},
	}
}

func benchRank(ctx context.Context, stdin io.Reader, enc *json.Encoder) error {
	in := json.NewDecoder(bufio.NewReader(stdin))
	var task benchTask
	if err := in.Decode(&task); err != nil {
		return fmt.Errorf("read the task: %w", err)
	}
	t, err := benchTransportByName(task.Transport)
	if err != nil {
		return fmt.Errorf("transport: %w", err)
	}
	notes := &benchNotes{}
	l, err := t.listen(benchSocket{ip: "127.0.0.1", checksum: task.Checksum, provider: task.Provider, log: notes.logger()})
	if err != nil {
		return err
	}
	defer l.Close()
	if err := enc.Encode(l.Addr()); err != nil {
		return err
	}
	var seat benchSeat
	if err := in.Decode(&seat); err != nil {
		return fmt.Errorf("read the ranks' addresses: %w", err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	dismissed := make(chan struct{})
	go func() { // the parent is gone, or needs us no more
		defer close(dismissed)
		_, _ = io.Copy(io.Discard, stdin)
		cancel(errors.New("the benchmark was ended"))
	}()
	fctx, fcancel := context.WithTimeout(ctx, benchForm)
	defer fcancel()
	tr, err := l.Connect(fctx, transport.ID{Job: "bench", Generation: 1, Rank: seat.Rank}, seat.Addrs)
	if err != nil {
		return err
	}
	g, err := task.group(tr, notes)
	if err != nil {
		return err
	}
	defer g.Close()
	if err := task.measure(ctx, g, notes, func(r benchResult) error { return enc.Encode(r) }); err != nil {
		return err
	}
	<-dismissed // the others may still be at the last barrier: a rank that leaves would look lost to them
	return nil
}
