package main

import (
	"errors"
	"fmt"

	"github.com/farandole-ml/farandole/checkpoint"
	"github.com/farandole-ml/farandole/kernels"
	"github.com/farandole-ml/farandole/kernels/nn"
)

// weightsOf lists a model's tensors as checkpoint.GPT2File fills them and checkpoint.WriteGPT2 writes them. dev has the model.
func weightsOf(dev kernels.Device, tensors []nn.Tensor) []checkpoint.Weight {
	var weights []checkpoint.Weight
	for _, t := range tensors {
		tensor := checkpoint.Tensor{Name: t.Name, Shape: t.Shape, Data: dev.Host(t.Value)}
		weights = append(weights, checkpoint.Weight{Tensor: tensor, Transposed: t.Transposed})
	}
	return weights
}

// fitTo makes cfg that of the weights in f where the file may choose, and says what to do where the two differ.
func fitTo(f *checkpoint.GPT2File, cfg nn.GPTConfig) (nn.GPTConfig, error) {
	tokens, positions := f.Shape("wte.weight"), f.Shape("wpe.weight")
	if len(tokens) != 2 || len(positions) != 2 {
		return cfg, errors.New("it has no matrices wte.weight and wpe.weight, so it is no GPT-2")
	}
	layers := 0
	for f.Shape(fmt.Sprintf("h.%d.ln_1.weight", layers)) != nil {
		layers++
	}
	if width := tokens[1]; layers != cfg.Layers || width != int64(cfg.Width) {
		what := fmt.Sprintf("it has %d layers of width %d, and --model has %d of %d", layers, width, cfg.Layers, cfg.Width)
		for _, name := range nn.GPTNames() {
			if c, err := nn.ConfigByName(name); err == nil && layers == c.Layers && width == int64(c.Width) {
				return cfg, fmt.Errorf("%s: use --model %s", what, name)
			}
		}
		return cfg, fmt.Errorf("%s: no --model is of its size", what)
	}
	if tokens[0] != int64(cfg.Vocab) {
		return cfg, fmt.Errorf("its vocabulary has %d tokens, and the text's %d: choose another --tokenizer", tokens[0], cfg.Vocab)
	}
	if positions[0] < int64(cfg.Context) {
		return cfg, fmt.Errorf("its context has %d tokens: choose --seq %d or less", positions[0], positions[0])
	}
	cfg.Context = int(positions[0])
	return cfg, nil
}
