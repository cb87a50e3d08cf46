// Command gpt trains a GPT-2 of any size on any text: alone, or elastically under farandole run, with the same bits.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"

	"github.com/farandole-ml/farandole/checkpoint"
	"github.com/farandole-ml/farandole/elastic"
	"github.com/farandole-ml/farandole/kernels"
	"github.com/farandole-ml/farandole/kernels/nn"
	"github.com/farandole-ml/farandole/worker"
	"github.com/farandole-ml/farandole/worker/data"
)

// sampleTokens and sampleTemperature are of the text that --sample prints.
const sampleTokens, sampleTemperature = 400, 0.6

func main() { worker.Main(parse(os.Args[1:])) }

// trainer is a GPT, its optimizer and its text.
type trainer struct {
	options
	dev   kernels.Device
	text  *data.Text
	order data.Order
	model *nn.GPT
	optim *nn.AdamW
	batch nn.Batch // memory for the largest shard
	ids   []int64
}

// Setup reads the text and makes the model of the seed.
func (t *trainer) Setup(ctx context.Context, s *worker.Session) (err error) {
	if t.mistake != nil {
		return &worker.UsageError{Reason: t.mistake.Error()}
	}
	if t.dev, err = t.open(s); err != nil {
		return err
	}
	var input *data.InputError
	if t.text, err = data.OpenText(ctx, data.TextConfig{Path: t.path, Tokenizer: t.tokenizer, Log: slog.Default()}); err == nil {
		t.order = data.Order{Seed: t.seed, Len: t.text.Samples(t.seq), PerStep: t.sequences}
		err = t.order.Check(t.shards)
	}
	if errors.As(err, &input) {
		return &worker.UsageError{Reason: input.Reason}
	} else if err != nil {
		return err
	}
	cfg := t.config
	cfg.Vocab, cfg.Context = t.text.Vocab(), t.seq
	if t.model, err = nn.NewGPT(t.dev, cfg); err != nil {
		return err
	}
	t.model.Init(t.seed)
	if t.optim, err = nn.NewAdamW(t.dev, t.model, nn.Hyper{Schedule: nn.Schedule{
		Peak: t.lr, Floor: t.lr / 10, Warmup: min(t.warmup, t.steps/2), Steps: t.steps,
	}}); err != nil {
		return err
	}
	t.batch.Tokens = make([]int32, t.largest()*t.seq)
	t.batch.Targets = make([]int32, t.largest()*t.seq)
	s.Plan(worker.Plan{
		Steps: t.steps, Shards: t.shards, Seed: t.seed,
		SamplesPerStep: t.sequences, TokensPerStep: t.sequences * int64(t.seq), DatasetLen: t.order.Len,
		Program: t.model.Program() + " on " + t.text.Name(), Class: t.dev.Class(),
	})
	return t.register(ctx, s)
}

// register hands the model's memory to the runtime, filled from a checkpoint where --load says so.
func (t *trainer) register(ctx context.Context, s *worker.Session) error {
	var loaded []checkpoint.Tensor
	for _, p := range t.model.Params() {
		value := t.dev.Host(p.Value)
		s.Param(p.Name, p.Shape, value, t.dev.Host(p.Grad))
		loaded = append(loaded, checkpoint.Tensor{Name: p.Name, Shape: p.Shape, Data: value})
	}
	m, v := t.optim.Moments()
	for _, state := range []checkpoint.Tensor{{Name: "adam.m", Data: t.dev.Host(m)}, {Name: "adam.v", Data: t.dev.Host(v)}} {
		s.State(state.Name, state.Data)
		state.Shape = []int{len(state.Data)}
		loaded = append(loaded, state)
	}
	if t.load == "" {
		return nil
	}
	dir, err := checkpoint.Open(t.load, false)
	if err == nil {
		_, _, err = dir.LoadLatest(ctx, t.model.Program()+" on "+t.text.Name(), loaded)
	}
	if err != nil {
		return &worker.UsageError{Reason: fmt.Sprintf("--load %s: %v", t.load, err)}
	}
	return nil
}

// largest is the sequences of the largest shard.
func (t *trainer) largest() int {
	return int((t.sequences + int64(t.shards) - 1) / int64(t.shards))
}

// Gradients adds the shard's part of the gradient of the global batch's mean loss.
func (t *trainer) Gradients(ctx context.Context, shard elastic.Shard) (float64, error) {
	t.ids = t.order.AppendSamples(t.ids[:0], shard)
	b := nn.Batch{Rows: len(t.ids), Seq: t.seq, Tokens: t.batch.Tokens[:len(t.ids)*t.seq], Targets: t.batch.Targets[:len(t.ids)*t.seq]}
	for i, id := range t.ids {
		t.text.Fill(b.Tokens[i*t.seq:(i+1)*t.seq], b.Targets[i*t.seq:(i+1)*t.seq], id)
	}
	tokens := t.sequences * int64(t.seq)
	if err := t.model.Forward(b, float32(1/float64(tokens))); err != nil || ctx.Err() != nil {
		return 0, errors.Join(err, ctx.Err())
	}
	t.model.Backward()
	loss, err := t.model.Loss()
	return loss / float64(tokens) * float64(shard.Count), err // the runtime divides by the shards
}

// Apply updates the weights by the sum over all shards.
func (t *trainer) Apply(_ context.Context, step elastic.Step) error {
	_, err := t.optim.Update(int64(step))
	return err
}

// Finish prints a sample of what the model learned.
func (t *trainer) Finish(ctx context.Context, _ *worker.Session) error {
	if !t.sample {
		return nil
	}
	prompt, err := t.text.Encode(ctx, t.prompt)
	if err != nil {
		return err
	}
	out, err := t.model.Generate(prompt, sampleTokens, nn.Sampling{Seed: t.seed, Temperature: sampleTemperature})
	if err != nil {
		return err
	}
	s, err := t.text.Decode(out)
	if err == nil {
		_, err = fmt.Printf("%s%s\n", t.prompt, s)
	}
	return err
}
