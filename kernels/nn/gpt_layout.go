package nn

import "fmt"

// maxLayers bounds the layers of a GPT that GPTOf reads from a name, and so the memory of its Layout.
const maxLayers = 4096

// GPTOf is the configuration in a program's name, which begins with what GPT.Program gives. It is false for other models.
func GPTOf(program string) (GPTConfig, bool) {
	var c GPTConfig
	_, err := fmt.Sscanf(program, "gpt %dx%d heads %d context %d vocab %d", &c.Layers, &c.Width, &c.Heads, &c.Context, &c.Vocab)
	return c, err == nil && c.Layers <= maxLayers && c.validate() == nil
}

// Layout lists the tensors of a GPT of this size as Params does, but has no memory for them.
func (c GPTConfig) Layout() []Tensor {
	var tensors []Tensor
	for _, s := range inBufferOrder(c.specs()) {
		tensors = append(tensors, s.tensor())
	}
	return tensors
}
