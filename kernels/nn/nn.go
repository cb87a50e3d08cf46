// Package nn has the models that Farandole trains, written on kernels.Device: a GPT-2 of any size, a perceptron, a
// small convolutional network, AdamW and its learning-rate schedule.
//
// A model keeps all its parameters in one buffer and all its gradients in another of equal layout, so that
// reducing, clipping, updating, saving and hashing are single passes over flat memory. Named tensors are
// views of the two. Everything that a model computes is a function of its parameters and the batch: it knows
// nothing of ranks or world sizes.
package nn

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/farandole-ml/farandole/kernels"
)

// ErrBatch says that a batch does not fit the model: wrong lengths, too long a sequence, a token out of range.
var ErrBatch = errors.New("nn: bad batch")

// Batch is one micro-batch in host memory. A model reads it during Forward only.
type Batch struct {
	Rows int // sequences or images
	Seq  int // positions per row; 1 for an MLP or a CNN

	Tokens  []int32   // GPT: [Rows, Seq], each in [0, vocab)
	Inputs  []float32 // MLP: [Rows, widths[0]]; CNN: [Rows, height, width, channels]
	Targets []int32   // [Rows, Seq]: the class to predict; negative is ignored
}

// Model is what trains: GPT, MLP and CNN. It is used by one goroutine at a time, the one that uses its device.
//
// One gradient is Forward with a scale other than zero, then Backward. Gradients add up in GradBuffer until the
// caller zeroes it, so several micro-batches, or several shards, make one sum.
type Model interface {
	// Program names architecture and sizes, for checkpoints and plans: "gpt 4x128 heads 4 context 64 vocab 256".
	Program() string
	// Init sets the parameters to those of a seed, and the gradients to zero.
	Init(seed uint64)
	// Params lists the tensors in the order of the buffers, which they fill without gaps: matrices first, so that
	// weight decay covers one range.
	Params() []Tensor
	ParamBuffer() kernels.Buffer
	GradBuffer() kernels.Buffer

	// Forward computes the losses of the batch, and may begin to add to the gradient. scale multiplies that: with
	// 1/(targets in the global batch) the gradients of all shards add up to that of the mean loss. Zero means
	// that no Backward follows. After the first call with the largest batch it allocates no device memory.
	Forward(b Batch, scale float32) error
	// Backward adds the gradient of the last Forward, or the rest of it: without it the sum is not usable. It panics when there is none, or its scale was 0.
	Backward()
	// OnFinal has Backward call f with falling stages, except 0: the gradients of all tensors of that stage and above
	// are final then, and may be read: downloaded, or after a Sync. Nil calls nothing.
	OnFinal(f func(stage int))
	// Loss waits for the last Forward and gives the sum of its losses in nats (not the mean, not scaled).
	Loss() (float64, error)

	// Flops estimates the arithmetic of one forward and backward pass: 6 per weight of a matrix and position,
	// and attention's products.
	Flops(rows, seq int) float64
	// RandomBatch is a valid batch of noise, for benchmarks.
	RandomBatch(rows, seq int, seed uint64) Batch
}

// Tensor is a named view of a model's two buffers.
type Tensor struct {
	Name  string
	Shape []int
	Value kernels.Buffer
	Grad  kernels.Buffer
	// Stage is the tensor's place in the model, from the input's 0 up: Backward finishes the highest first.
	Stage int
	// Decay tells matrices, which AdamW's weight decay applies to, from biases and norms.
	Decay bool
	// Transposed tells that Hugging Face's GPT-2 stores the matrix as [in, out] (its Conv1D) under this name,
	// where Shape and the memory here are [out, in].
	Transposed bool
}

// gpts are the named GPT configurations, smallest first.
var gpts = []struct {
	name string
	cfg  GPTConfig
}{
	{"tiny", GPTConfig{Vocab: 256, Context: 64, Layers: 2, Heads: 2, Width: 32}},
	{"small", GPTConfig{Vocab: 256, Context: 256, Layers: 4, Heads: 4, Width: 128}},
	{"gpt2-6x384", GPTConfig{Vocab: 256, Context: 256, Layers: 6, Heads: 6, Width: 384}},
	{"gpt2-124m", GPTConfig{Vocab: 50257, Context: 1024, Layers: 12, Heads: 12, Width: 768}},
	{"gpt2-350m", GPTConfig{Vocab: 50257, Context: 1024, Layers: 24, Heads: 16, Width: 1024}},
	{"gpt2-774m", GPTConfig{Vocab: 50257, Context: 1024, Layers: 36, Heads: 20, Width: 1280}},
	{"gpt2-1558m", GPTConfig{Vocab: 50257, Context: 1024, Layers: 48, Heads: 25, Width: 1600}},
}

// mlps are the named perceptrons. Widths go from the input's to the number of classes.
var mlps = []struct {
	name string
	cfg  MLPConfig
}{
	{"mlp-tiny", MLPConfig{Widths: []int{784, 32, 10}}},
	{"mlp", MLPConfig{Widths: []int{784, 256, 128, 10}}},
	{"mlp-wide", MLPConfig{Widths: []int{784, 1024, 1024, 10}}},
}

// GPTNames lists the names of GPT configurations, smallest first:
//
//	tiny         2 layers, 32 wide, context 64, bytes
//	small        4 layers, 128 wide, context 256, bytes
//	gpt2-6x384   6 layers, 384 wide, context 256, bytes
//	gpt2-124m    GPT-2, and gpt2-350m, gpt2-774m, gpt2-1558m: the published sizes, vocabulary 50257
func GPTNames() []string {
	var names []string
	for _, g := range gpts {
		names = append(names, g.name)
	}
	return names
}

// MLPNames lists the names of MLP configurations, all for MNIST: mlp-tiny 784-32-10, mlp 784-256-128-10,
// mlp-wide 784-1024-1024-10.
func MLPNames() []string {
	var names []string
	for _, m := range mlps {
		names = append(names, m.name)
	}
	return names
}

// ConfigByName is the GPT configuration of that name. The caller may change Vocab to its tokenizer's.
func ConfigByName(name string) (GPTConfig, error) {
	for _, g := range gpts {
		if g.name == name {
			return g.cfg, nil
		}
	}
	return GPTConfig{}, unknown(name, GPTNames())
}

// MLPByName is the MLP configuration of that name. The caller owns the copy.
func MLPByName(name string) (MLPConfig, error) {
	for _, m := range mlps {
		if m.name == name {
			return MLPConfig{Widths: slices.Clone(m.cfg.Widths)}, nil
		}
	}
	return MLPConfig{}, unknown(name, MLPNames())
}

// New makes the model of that name on dev, with parameters still zero: call Init.
func New(dev kernels.Device, name string) (Model, error) {
	if cfg, err := ConfigByName(name); err == nil {
		return NewGPT(dev, cfg)
	}
	if cfg, err := MLPByName(name); err == nil {
		return NewMLP(dev, cfg)
	}
	if cfg, err := CNNByName(name); err == nil {
		return NewCNN(dev, cfg)
	}
	return nil, unknown(name, slices.Concat(GPTNames(), MLPNames(), CNNNames()))
}

// unknown is the error for a name that is none of known.
func unknown(name string, known []string) error {
	return fmt.Errorf("no model is called %q: choose one of %s", name, strings.Join(known, ", "))
}
