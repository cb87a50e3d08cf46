// Command mnist trains a perceptron on MNIST and prints its test accuracy: alone, or elastically under farandole run,
// with the same bits.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/farandole-ml/farandole/elastic"
	"github.com/farandole-ml/farandole/kernels/nn"
	"github.com/farandole-ml/farandole/worker"
	"github.com/farandole-ml/farandole/worker/data"
	"github.com/farandole-ml/farandole/worker/fit"
)

// testRows is how many images are classified at once.
const testRows = 500

func main() { worker.Main(parse(os.Args[1:])) }

// trainer is a perceptron and its images.
type trainer struct {
	fit.Program
	config      nn.MLPConfig
	train, test *data.Images
	model       *nn.MLP
	inputs      []float32 // memory for the largest shard
	targets     []int32
}

func parse(args []string) *trainer {
	t := &trainer{}
	t.Options = fit.Options{Steps: 1000, Shards: 8, Batch: 128, Size: "mlp", Seed: 1, LR: 2e-3, Warmup: 50}
	f := t.Flags("mnist", nn.MLPNames(), "images", "folder with MNIST's four .gz files; default: the module that has them, found by the go command")
	t.Parse(f, args, func() (err error) {
		t.config, err = nn.MLPByName(t.Size)
		return err
	})
	return t
}

// Setup reads the images and makes the model of the seed.
func (t *trainer) Setup(ctx context.Context, s *worker.Session) (err error) {
	if err = t.Open(s); err != nil {
		return err
	}
	t.train, t.test, err = data.LoadMNIST(ctx, t.Data)
	if err = t.Samples(func() int64 { return t.train.Len() }, err); err != nil {
		return err
	}
	t.config.Widths[0] = t.train.Width()
	t.config.Widths[len(t.config.Widths)-1] = max(t.train.Classes(), t.test.Classes())
	if t.model, err = nn.NewMLP(t.Dev, t.config); err != nil {
		return err
	}
	t.inputs, t.targets = make([]float32, t.LargestShard()*t.train.Width()), make([]int32, t.LargestShard())
	return t.Attach(ctx, s, t.model, nn.Hyper{Beta2: 0.99, Decay: 0.01}, 0.01, t.train.Name(), 0)
}

// Gradients adds the shard's part of the gradient of the global batch's mean loss.
func (t *trainer) Gradients(ctx context.Context, shard elastic.Shard) (float64, error) {
	ids := t.IDs(shard)
	n := len(ids)
	b := nn.Batch{Rows: n, Seq: 1, Inputs: t.inputs[:n*t.train.Width()], Targets: t.targets[:n]}
	t.train.Fill(b.Inputs, b.Targets, ids)
	return t.Gradient(ctx, b, t.Batch, shard)
}

// Finish classifies the test set.
func (t *trainer) Finish(ctx context.Context, _ *worker.Session) error {
	right, n := 0, t.test.Len()
	inputs, targets, classes := make([]float32, testRows*t.test.Width()), make([]int32, testRows), make([]int, testRows)
	for first := int64(0); first < n; first += testRows {
		var ids []int64
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
