// Package fit is what programs that train a model of kernels/nn have in common: their flags, the device, the order of
// samples, the registration with a worker.Session, a shard's gradient and the update. A program embeds Program
// and adds its data and its model.
package fit

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"

	"github.com/farandole-ml/farandole/checkpoint"
	"github.com/farandole-ml/farandole/elastic"
	"github.com/farandole-ml/farandole/kernels"
	"github.com/farandole-ml/farandole/kernels/nn"
	"github.com/farandole-ml/farandole/worker"
	"github.com/farandole-ml/farandole/worker/data"
)

// Program is a training program without its data and model. Set the options that differ from zero, call Flags and
// Parse; then in Setup: Open, Samples, Attach. Apply makes it half a worker.Trainer; Gradient helps with the other half.
// It is used by one goroutine at a time.
type Program struct {
	Options

	Dev   kernels.Device // after Open
	Order data.Order     // after Samples
	Model nn.Model       // after Attach
	Optim *nn.AdamW      // after Attach

	mistake error   // in the flags
	ids     []int64 // memory of IDs
}

// Open opens the device that the flags ask for, else the one that the job asks for. A mistake in the flags
// comes out here, so that a job ends with it, as a *worker.UsageError.
func (p *Program) Open(s *worker.Session) (err error) {
	if p.mistake != nil {
		return &worker.UsageError{Reason: p.mistake.Error()}
	}
	if p.Device == "" {
		p.Device = s.Device()
	}
	if p.Threads == 0 {
		p.Threads = s.Threads()
	}
	p.Dev, err = kernels.Open(p.Device, kernels.Config{
		Threads: p.Threads, Precision: p.Precision, Products: p.Products, Pin: p.Pin || s.Pin(), LocalRank: s.LocalRank(), Logger: s.Logger(),
	})
	if err != nil {
		return &worker.UsageError{Reason: "--" + strings.TrimPrefix(err.Error(), "kernels: ")}
	}
	if d, ok := p.Dev.(kernels.Monitored); ok {
		s.Monitor(d)
	}
	return nil
}

// Samples settles the order of a data set of n samples. loading is the error with which the data were read: what the
// user can mend, there or in the order, becomes a *worker.UsageError.
func (p *Program) Samples(n func() int64, loading error) error {
	var input *data.InputError
	if loading == nil {
		p.Order = data.Order{Seed: p.Seed, Len: n(), PerStep: p.Batch}
		loading = p.Order.Check(p.Shards)
	}
	if errors.As(loading, &input) {
		return &worker.UsageError{Reason: input.Reason}
	}
	return loading
}

// LargestShard is the samples of the largest shard.
func (p *Program) LargestShard() int {
	return int((p.Batch + int64(p.Shards) - 1) / int64(p.Shards))
}

// Attach gives model the parameters of the seed, or of the checkpoint that the flags name, makes its optimizer, whose
// learning rate falls to floor times the peak, and registers all with s. dataName goes into the
// program's name, so that a checkpoint is not continued on other data; tokens are those of one sample, if any.
func (p *Program) Attach(ctx context.Context, s *worker.Session, model nn.Model, hyper nn.Hyper, floor float64, dataName string, tokens int64) (err error) {
	p.Model = model
	hyper.Schedule = nn.Schedule{Peak: p.LR, Floor: p.LR * floor, Warmup: min(p.Warmup, p.Steps/2), Steps: p.Steps}
	if p.Optim, err = nn.NewAdamW(p.Dev, model, hyper); err != nil {
		return err
	}
	model.Init(p.Seed) // now that all the memory is there: large models take long
	name := model.Program() + " on " + dataName
	s.Plan(worker.Plan{
		Steps: p.Steps, Shards: p.Shards, Seed: p.Seed, SamplesPerStep: p.Batch, TokensPerStep: p.Batch * tokens,
		DatasetLen: p.Order.Len, Program: name, Class: p.Dev.Class(), Overlap: true,
	})
	params := slices.Clone(model.Params())
	slices.SortStableFunc(params, func(a, b nn.Tensor) int { return a.Stage - b.Stage }) // backward finishes the last first
	remote := p.Dev.Host(model.ParamBuffer()) == nil
	model.OnFinal(func(stage int) {
		if !remote && p.Dev.Sync() != nil { // a Mirror's copies wait by themselves
			return
		}
		s.Ready(slices.IndexFunc(params, func(t nn.Tensor) bool { return t.Stage >= stage }))
	})
	values, grads := onHost(p.Dev, model.ParamBuffer()), onHost(p.Dev, model.GradBuffer())
	spans := spansOf(model, params)
	var tensors []checkpoint.Tensor
	for i, t := range params {
		at := spans[i]
		value := values.host[at.lo:at.hi:at.hi]
		s.Param(t.Name, t.Shape, value, grads.host[at.lo:at.hi:at.hi])
		tensors = append(tensors, checkpoint.Tensor{Name: t.Name, Shape: t.Shape, Data: value})
	}
	first, second := p.Optim.Moments()
	m, v := onHost(p.Dev, first), onHost(p.Dev, second)
	for _, t := range []checkpoint.Tensor{{Name: "adam.m", Data: m.host}, {Name: "adam.v", Data: v.host}} {
		s.State(t.Name, t.Data)
		t.Shape = []int{len(t.Data)}
		tensors = append(tensors, t)
	}
	copies := &mirror{dev: p.Dev, grads: grads, state: []mirrored{values, m, v}, spans: spans}
	if remote {
		s.Mirror(copies)
	}
	if p.Load == "" {
		return nil
	}
	if err := p.loadCheckpoint(ctx, s.Logger(), name, tensors); err != nil {
		return &worker.UsageError{Reason: fmt.Sprintf("--load %s: %v", p.Load, err)}
	}
	if remote {
		return copies.PushState()
	}
	return nil
}

// loadCheckpoint fills tensors from the newest good checkpoint that the flags name, and tells the log of newer ones.
func (p *Program) loadCheckpoint(ctx context.Context, log *slog.Logger, program string, tensors []checkpoint.Tensor) error {
	switch st, err := os.Stat(p.Load); {
	case errors.Is(err, os.ErrNotExist):
		return errors.New("there is no such directory: name one that a job had as --checkpoint-dir")
	case err == nil && !st.IsDir():
		return errors.New("it is no directory: name the one that has the step-… directories in it")
	}
	dir, err := checkpoint.Open(p.Load, false)
	if err != nil {
		return err
	}
	defer dir.Close()
	_, skipped, err := dir.LoadLatest(ctx, program, tensors)
	for _, damage := range skipped {
		log.Warn("checkpoint not usable, looking for the one before it", "err", damage)
	}
	if errors.Is(err, checkpoint.ErrNone) {
		return fmt.Errorf("it has no usable checkpoint: see `farandole checkpoint verify %s`", p.Load)
	}
	return err
}

// IDs are the shard's samples; valid until the next call.
func (p *Program) IDs(shard elastic.Shard) []int64 {
	p.ids = p.Order.AppendSamples(p.ids[:0], shard)
	return p.ids
}

// Gradient adds b's part of the gradient of the mean loss over targets, which are those of the global batch, and gives the
// loss as worker.Trainer wants it: the runtime divides by the shards.
func (p *Program) Gradient(ctx context.Context, b nn.Batch, targets int64, shard elastic.Shard) (float64, error) {
	if err := p.Model.Forward(b, float32(1/float64(targets))); err != nil || ctx.Err() != nil {
		return 0, errors.Join(err, ctx.Err())
	}
	p.Model.Backward()
	loss, err := p.Model.Loss()
	return loss / float64(targets) * float64(shard.Count), err
}

// Apply updates the weights by the sum over all shards.
func (p *Program) Apply(_ context.Context, step elastic.Step) error {
	_, err := p.Optim.Update(int64(step))
	return err
}
