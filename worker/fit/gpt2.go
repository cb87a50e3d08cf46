package fit

import (
	"context"
	"errors"
	"fmt"

	"github.com/farandole-ml/farandole/checkpoint"
	"github.com/farandole-ml/farandole/kernels"
	"github.com/farandole-ml/farandole/kernels/nn"
	"github.com/farandole-ml/farandole/worker"
)

// GPT2Weights are the first weights of a GPT, from a file of Hugging Face's layout. nil are none: what it is asked for then
// does nothing.
type GPT2Weights struct{ file *checkpoint.GPT2File }

// OpenGPT2 opens the file at path, which the option --init named, and makes cfg that of its weights where the file may choose.
// Without a path there are none. Errors are the user's and say what to do where the two differ.
func OpenGPT2(path string, cfg *nn.GPTConfig) (*GPT2Weights, error) {
	if path == "" {
		return nil, nil
	}
	f, err := checkpoint.OpenGPT2(path)
	if err != nil {
		return nil, initError(err)
	}
	if err := fitTo(f, cfg); err != nil {
		_ = f.Close()
		return nil, initError(fmt.Errorf("%s: %w", path, err))
	}
	return &GPT2Weights{f}, nil
}

func initError(err error) error { return &worker.UsageError{Reason: fmt.Sprintf("--init: %v", err)} }

// Close closes the file.
func (w *GPT2Weights) Close() error {
	if w == nil {
		return nil
	}
	return w.file.Close()
}

// Load fills m's parameters, which are on dev.
func (w *GPT2Weights) Load(ctx context.Context, dev kernels.Device, m *nn.GPT) error {
	if w == nil {
		return nil
	}
	weights, err := GPT2Tensors(dev, m)
	if err != nil {
		return err
	}
	if err := w.file.Load(ctx, weights); err != nil {
		return initError(err)
	}
	for i, t := range m.Params() {
		if dev.Host(t.Value) == nil {
			dev.Upload(t.Value, weights[i].Data)
		}
	}
	return dev.Sync()
}

// GPT2Tensors lists m's parameters, which are on dev, as checkpoint.GPT2File fills them and checkpoint.WriteGPT2 writes them: their
// own memory where the host can address it, else copies.
func GPT2Tensors(dev kernels.Device, m *nn.GPT) ([]checkpoint.Weight, error) {
	var weights []checkpoint.Weight
	for _, t := range m.Params() {
		data := dev.Host(t.Value)
		if data == nil {
			data = make([]float32, t.Value.Len())
			if err := dev.Download(data, t.Value); err != nil {
				return nil, err
			}
		}
		tensor := checkpoint.Tensor{Name: t.Name, Shape: t.Shape, Data: data}
		weights = append(weights, checkpoint.Weight{Tensor: tensor, Transposed: t.Transposed})
	}
	return weights, nil
}

// fitTo makes cfg that of the weights in f.
func fitTo(f *checkpoint.GPT2File, cfg *nn.GPTConfig) error {
	tokens, positions := f.Shape("wte.weight"), f.Shape("wpe.weight")
	if len(tokens) != 2 || len(positions) != 2 {
		return errors.New("it has no matrices wte.weight and wpe.weight, so it is no GPT-2")
	}
	layers := 0
	for f.Shape(fmt.Sprintf("h.%d.ln_1.weight", layers)) != nil {
		layers++
	}
	if width := tokens[1]; layers != cfg.Layers || width != int64(cfg.Width) {
		what := fmt.Sprintf("it has %d layers of width %d, and --model has %d of %d", layers, width, cfg.Layers, cfg.Width)
		for _, name := range nn.GPTNames() {
			if c, err := nn.ConfigByName(name); err == nil && layers == c.Layers && width == int64(c.Width) {
				return fmt.Errorf("%s: use --model %s", what, name)
			}
		}
		return fmt.Errorf("%s: no --model is of its size", what)
	}
	if tokens[0] != int64(cfg.Vocab) {
		return fmt.Errorf("its vocabulary has %d tokens, and the text's %d: choose another --tokenizer", tokens[0], cfg.Vocab)
	}
	if positions[0] < int64(cfg.Context) {
		return fmt.Errorf("its context has %d tokens: choose --seq %d or less", positions[0], positions[0])
	}
	cfg.Context = int(positions[0])
	return nil
}
