package main

import (
	"context"

	"golang.org/x/sync/errgroup"

	"github.com/farandole-ml/farandole/collective/transport/inproc"
)

// benchInProcess runs the ranks as goroutines of this process and hands on each cell's timing: what the algorithms cost
// without a network.
func benchInProcess(ctx context.Context, task *benchTask, each func(benchTiming) error) error {
	ranks, ctx := errgroup.WithContext(ctx)
	// Every rank's results go to one place, where a cell's are merged once all are there.
	results := make([]chan benchResult, task.Ranks)
	for i, tr := range inproc.New(task.Ranks) {
		results[i] = make(chan benchResult, 1)
		notes := &benchNotes{}
		g, err := task.group(tr, notes)
		if err != nil {
			return err
		}
		defer g.Close() // when all have ended: a rank that leaves would look lost to the others
		ranks.Go(func() error {
			return task.measure(ctx, g, notes, func(r benchResult) error {
				select {
				case results[i] <- r:
					return nil
				case <-ctx.Done():
					return context.Cause(ctx)
				}
			})
		})
	}
	ranks.Go(func() error {
		for range task.Cells {
			merged := make([]benchResult, task.Ranks)
			for i, c := range results {
				select {
				case merged[i] = <-c:
				case <-ctx.Done():
					return context.Cause(ctx)
				}
			}
			t, err := mergeResults(merged)
			if err == nil {
				err = each(t)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	return ranks.Wait()
}
