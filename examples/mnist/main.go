// Command mnist trains a perceptron on MNIST and prints its test accuracy: alone, or elastically under farandole run,
// with the same bits.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/farandole-ml/farandole/elastic"
	"github.com/farandole-ml/farandole/kernels"
	"github.com/farandole-ml/farandole/kernels/nn"
	"github.com/farandole-ml/farandole/worker"
	"github.com/farandole-ml/farandole/worker/data"
)

// testRows is how many images are classified at once.
const testRows = 500

func main() { worker.Main(parse(os.Args[1:])) }

// trainer is a perceptron, its optimizer and its images.
type trainer struct {
	options
	dev         kernels.Device
	train, test *data.Images
	order       data.Order
	model       *nn.MLP
	optim       *nn.AdamW
	inputs      []float32 // memory for the largest shard
	targets     []int32
	ids         []int64
}

// Setup reads the images and makes the model of the seed.
func (t *trainer) Setup(ctx context.Context, s *worker.Session) (err error) {
	if t.mistake != nil {
		return &worker.UsageError{Reason: t.mistake.Error()}
	}
	if t.dev, err = t.open(s); err != nil {
		return err
	}
	var input *data.InputError
	if t.train, t.test, err = data.LoadMNIST(ctx, t.path); err == nil {
		t.order = data.Order{Seed: t.seed, Len: t.train.Len(), PerStep: t.images}
		err = t.order.Check(t.shards)
	}
	if errors.As(err, &input) {
		return &worker.UsageError{Reason: input.Reason}
	} else if err != nil {
		return err
	}
	t.config.Widths[0] = t.train.Width()
	t.config.Widths[len(t.config.Widths)-1] = max(t.train.Classes(), t.test.Classes())
	if t.model, err = nn.NewMLP(t.dev, t.config); err != nil {
		return err
	}
	t.model.Init(t.seed)
	if t.optim, err = nn.NewAdamW(t.dev, t.model, nn.Hyper{Beta2: 0.99, Decay: 0.01, Schedule: nn.Schedule{
		Peak: t.lr, Floor: t.lr / 100, Warmup: min(t.warmup, t.steps/2), Steps: t.steps,
	}}); err != nil {
		return err
	}
	largest := (t.images + int64(t.shards) - 1) / int64(t.shards)
	t.inputs, t.targets = make([]float32, largest*int64(t.train.Width())), make([]int32, largest)
	s.Plan(worker.Plan{
		Steps: t.steps, Shards: t.shards, Seed: t.seed, SamplesPerStep: t.images, DatasetLen: t.order.Len,
		Program: t.model.Program() + " on " + t.train.Name(), Class: t.dev.Class(),
	})
	for _, p := range t.model.Params() {
		s.Param(p.Name, p.Shape, t.dev.Host(p.Value), t.dev.Host(p.Grad))
	}
	m, v := t.optim.Moments()
	s.State("adam.m", t.dev.Host(m))
	s.State("adam.v", t.dev.Host(v))
	return nil
}

// Gradients adds the shard's part of the gradient of the global batch's mean loss.
func (t *trainer) Gradients(ctx context.Context, shard elastic.Shard) (float64, error) {
	t.ids = t.order.AppendSamples(t.ids[:0], shard)
	n := len(t.ids)
	b := nn.Batch{Rows: n, Seq: 1, Inputs: t.inputs[:n*t.train.Width()], Targets: t.targets[:n]}
	t.train.Fill(b.Inputs, b.Targets, t.ids)
	if err := t.model.Forward(b, float32(1/float64(t.images))); err != nil || ctx.Err() != nil {
		return 0, errors.Join(err, ctx.Err())
	}
	t.model.Backward()
	loss, err := t.model.Loss()
	return loss / float64(t.images) * float64(shard.Count), err // the runtime divides by the shards
}

// Apply updates the weights by the sum over all shards.
func (t *trainer) Apply(_ context.Context, step elastic.Step) error {
	_, err := t.optim.Update(int64(step))
	return err
}

// Finish classifies the test set.
func (t *trainer) Finish(ctx context.Context, _ *worker.Session) error {
	right, n := 0, t.test.Len()
	inputs, targets, classes := make([]float32, testRows*t.test.Width()), make([]int32, testRows), make([]int, testRows)
	for first := int64(0); first < n; first += testRows {
		ids := t.ids[:0]
		for id := first; id < min(first+testRows, n); id++ {
			ids = append(ids, id)
		}
		in := inputs[:len(ids)*t.test.Width()]
		t.test.Fill(in, targets[:len(ids)], ids)
		if err := t.model.Classify(classes[:len(ids)], in); err != nil || ctx.Err() != nil {
			return errors.Join(err, ctx.Err())
		}
		for i := range ids {
			if classes[i] == int(targets[i]) {
				right++
			}
		}
	}
	_, err := fmt.Printf("test accuracy %.2f %%\n", 100*float64(right)/float64(n))
	return err
}
