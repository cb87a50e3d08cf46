// Command mnist trains a perceptron or a convolutional network on MNIST and prints its test accuracy: alone, or elastically under farandole run,
// with the same bits.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/farandole-ml/farandole/elastic"
	"github.com/farandole-ml/farandole/kernels/nn"
	"github.com/farandole-ml/farandole/worker"
	"github.com/farandole-ml/farandole/worker/data"
	"github.com/farandole-ml/farandole/worker/fit"
)

// testRows is how many images are classified at once.
const testRows = 500

func main() { worker.Main(parse(os.Args[1:])) }

// trainer is a model and its images.
type trainer struct {
	fit.Program
	train, test *data.Images
	model       nn.Classifier
	inputs      []float32 // memory for the largest shard
	targets     []int32
}

func parse(args []string) *trainer {
	t := &trainer{}
	t.Options = fit.Options{Steps: 1000, Shards: 8, Batch: 128, Size: "mlp", Seed: 1, LR: 2e-3, Warmup: 50}
	models := slices.Concat(nn.MLPNames(), nn.CNNNames())
	f := t.Flags("mnist", models, "images", "folder with MNIST's four .gz files; default: the module that has them, found by the go command")
	t.Parse(f, args, func() error {
		if !slices.Contains(models, t.Size) {
			return fmt.Errorf("no model is called %q: choose one of %s", t.Size, strings.Join(models, ", "))
		}
		return nil
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
	if t.model, err = t.newModel(); err != nil {
		return err
	}
	t.inputs, t.targets = make([]float32, t.LargestShard()*t.train.Width()), make([]int32, t.LargestShard())
	return t.Attach(ctx, s, t.model, nn.Hyper{Beta2: 0.99, Decay: 0.01}, 0.01, t.train.Name(), 0)
}

// newModel makes the model that --model names, for the images' size and classes.
func (t *trainer) newModel() (nn.Classifier, error) {
	classes := max(t.train.Classes(), t.test.Classes())
	if cnn, err := nn.CNNByName(t.Size); err == nil {
		cnn.Height, cnn.Width = t.train.Size()
		cnn.Classes = classes
		return nn.NewCNN(t.Dev, cnn)
	}
	mlp, err := nn.MLPByName(t.Size)
	if err != nil {
		return nil, err
	}
	mlp.Widths[0], mlp.Widths[len(mlp.Widths)-1] = t.train.Width(), classes
	return nn.NewMLP(t.Dev, mlp)
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
