package main

import (
	"context"
	"encoding/json"
	"errors"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/farandole-ml/farandole/elastic"
	"github.com/farandole-ml/farandole/kernels/nn"
	"github.com/farandole-ml/farandole/worker"
	"github.com/farandole-ml/farandole/worker/fit"
)

// trainerTask is what `bench trainer` is to do.
type trainerTask struct {
	Model         string
	Precision     string
	Products      string
	Batch, Seq    int
	Iters, Warmup int
	Idle          time.Duration // sleep so long instead of computing; 0: compute
	Report        string        // the file for the median of the step times in nanoseconds
}

// benchTrainer is the program that `bench step --in-job` runs: a model that trains on noise, or sleeps instead.
type benchTrainer struct {
	trainerTask
	fit.Program
	noise nn.Batch
	last  time.Time
	nanos []int64
}

// newBenchTrainerCommand takes its arguments as one JSON object: it is called by bench step alone.
func newBenchTrainerCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "trainer JSON",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			t := new(benchTrainer)
			if err := json.Unmarshal([]byte(args[0]), &t.trainerTask); err != nil {
				return usagef("read the task: %w", err)
			}
			worker.Main(t)
			return nil
		},
	}
}

func (t *benchTrainer) Setup(ctx context.Context, s *worker.Session) error {
	t.Options = fit.Options{Steps: int64(t.Warmup + t.Iters), Shards: 1, Batch: int64(t.trainerTask.Batch), Seed: 1, LR: 1e-4, Precision: t.trainerTask.Precision, Products: t.trainerTask.Products}
	if err := t.Open(s); err != nil {
		return err
	}
	model, err := nn.New(t.Dev, t.trainerTask.Model)
	if err != nil {
		return err
	}
	t.noise = model.RandomBatch(t.trainerTask.Batch, t.Seq, 1)
	return t.Attach(ctx, s, model, nn.Hyper{}, 0, "noise", int64(t.Seq))
}

func (t *benchTrainer) Gradients(ctx context.Context, shard elastic.Shard) (float64, error) {
	if t.Idle > 0 {
		time.Sleep(t.Idle)
		return 0, nil
	}
	return t.Gradient(ctx, t.noise, int64(len(t.noise.Targets)), shard)
}

func (t *benchTrainer) Apply(ctx context.Context, step elastic.Step) (err error) {
	if t.Idle == 0 {
		err = errors.Join(t.Program.Apply(ctx, step), t.Dev.Sync())
	}
	now := time.Now()
	if int(step) > t.Warmup {
		t.nanos = append(t.nanos, now.Sub(t.last).Nanoseconds())
	}
	t.last = now
	return err
}

func (t *benchTrainer) Finish(context.Context, *worker.Session) error {
	return writeFileAtomic(t.Report, []byte(strconv.FormatFloat(median(t.nanos), 'f', 0, 64)))
}
