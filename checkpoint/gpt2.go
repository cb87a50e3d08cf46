package checkpoint

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
)

// The layout of GPT-2's weights in files for Hugging Face's transformers: the names of nn.GPT's tensors, with or without
// the prefix below; matrices of its Conv1D as [in, out]; a causal mask for each layer, which is no weight; and sometimes the
// output head, which is the token embedding once more.
const (
	gpt2Prefix = "transformer."
	gpt2Head   = "lm_head.weight"
	gpt2Tokens = "wte.weight"
)

var gpt2Mask = regexp.MustCompile(`^h\.\d+\.attn\.(bias|masked_bias)$`)

// GPT2File is an open safetensors file with the weights of a GPT-2. Its methods may be called by several goroutines at once.
type GPT2File struct {
	path    string
	file    *os.File
	data    int64            // where the tensors' bytes begin
	entries map[string]entry // by name without prefix; masks are left out
}

// OpenGPT2 opens the safetensors file at path and checks its header. It reads no weights. Every error is one sentence
// that names the file and what is wrong with it.
func OpenGPT2(path string) (_ *GPT2File, err error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("there is no file %s", path)
	}
	if err != nil {
		return nil, fmt.Errorf("weights cannot be read: %w", err)
	}
	defer func() {
		if err != nil {
			_ = f.Close()
		}
	}()
	info, err := f.Stat()
	switch {
	case err != nil:
		return nil, fmt.Errorf("weights cannot be read: %w", err)
	case info.IsDir():
		return nil, fmt.Errorf("%s is a directory: name the safetensors file in it", path)
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s is no regular file", path)
	}
	h, err := readHeader(f, info.Size())
	if err != nil {
		return nil, fmt.Errorf("%s is no sound safetensors file: %w", path, err)
	}
	g := &GPT2File{path: path, file: f, data: int64(len(h.raw)), entries: make(map[string]entry, len(h.entries))}
	for _, e := range h.entries {
		name := strings.TrimPrefix(e.name, gpt2Prefix)
		if gpt2Mask.MatchString(name) {
			continue
		}
		if other, ok := g.entries[name]; ok {
			return nil, fmt.Errorf("%s has the tensor %q twice, as %q and %q", path, name, other.name, e.name)
		}
		g.entries[name] = e
	}
	return g, nil
}

// Close closes the file.
func (g *GPT2File) Close() error { return g.file.Close() }

// Shape is the shape of a tensor as the file has it, or nil where it has none of that name. Names are without prefix.
func (g *GPT2File) Shape(name string) []int64 { return g.entries[name].shape }

// Load fills weights, which have to be all that the file has. F16 and BF16 are widened. On an error the contents of the
// weights are undefined. Every error is one sentence that names the file.
func (g *GPT2File) Load(ctx context.Context, weights []Weight) error {
	if err := g.match(weights); err != nil {
		return err
	}
	for _, w := range weights {
		e := g.entries[w.Name]
		if err := readWeight(ctx, g.file, g.data+e.begin, e, w); err != nil {
			return g.unread(ctx, e, err)
		}
	}
	return g.checkHead(ctx, weights)
}

// unread is the error of a read of e.
func (g *GPT2File) unread(ctx context.Context, e entry, err error) error {
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("weights from %s: %w", g.path, err)
	case errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("%s ends within the tensor %q: it got shorter while it was read", g.path, e.name)
	}
	return fmt.Errorf("%s: the tensor %q cannot be read: %w", g.path, e.name, err)
}

// match says how the file's tensors differ from weights.
func (g *GPT2File) match(weights []Weight) error {
	if err := checkWeights(weights, true); err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	wanted := make(map[string]bool, len(weights))
	for _, w := range weights {
		wanted[w.Name] = true
		e, ok := g.entries[w.Name]
		if !ok {
			return fmt.Errorf("%s has no tensor %q", g.path, w.Name)
		}
		if err := g.checkEntry(e, w.fileShape()); err != nil {
			return err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(g.entries)) {
		if !wanted[name] && name != gpt2Head {
			return fmt.Errorf("%s has the tensor %q, and this model has none of that name", g.path, g.entries[name].name)
		}
	}
	return nil
}

func (g *GPT2File) checkEntry(e entry, shape []int64) error {
	if !slices.Equal(e.shape, shape) {
		return fmt.Errorf("%s: the tensor %q has shape %s, and this model's has %s", g.path, e.name, shapeString(e.shape), shapeString(shape))
	}
	switch e.dtype {
	case "F32", "F16", "BF16":
		return nil
	}
	return fmt.Errorf("%s: the tensor %q is %s, and only F32, F16 and BF16 are read", g.path, e.name, e.dtype)
}

// checkHead refuses an output head that is not the token embedding.
func (g *GPT2File) checkHead(ctx context.Context, weights []Weight) error {
	e, ok := g.entries[gpt2Head]
	i := slices.IndexFunc(weights, func(w Weight) bool { return w.Name == gpt2Tokens })
	if !ok || i < 0 {
		return nil
	}
	tokens := weights[i]
	if err := g.checkEntry(e, tokens.fileShape()); err != nil {
		return err
	}
	head := make([]float32, len(tokens.Data))
	if err := readFloats(ctx, g.file, g.data+e.begin, e.dtype, head); err != nil {
		return g.unread(ctx, e, err)
	}
	if !slices.Equal(head, tokens.Data) {
		return fmt.Errorf("%s has an output head of its own: %q differs from %q, and in this model they are one tensor", g.path, e.name, gpt2Tokens)
	}
	return nil
}

// WriteGPT2 writes weights as one safetensors file at path that Hugging Face's transformers load as a GPT-2, and OpenGPT2. dtype
// is one of DTypes. The file appears whole or not at all, and replaces what was there. Equal weights give equal bytes, those
// of Python's safetensors.
func WriteGPT2(ctx context.Context, path, dtype string, weights []Weight) error {
	kind, err := dtypeNamed(dtype)
	if err != nil {
		return err
	}
	if err := checkWeights(weights, true); err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	weights = slices.SortedFunc(slices.Values(weights), func(a, b Weight) int { return cmp.Compare(a.Name, b.Name) })
	entries := make([]entry, len(weights))
	for i, w := range weights {
		entries[i] = entry{name: w.Name, dtype: kind, shape: w.fileShape()}
	}
	head, err := encodeHeader(map[string]string{"format": "pt"}, entries)
	if err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	return writeWhole(path, func(f *os.File) error {
		if _, err := f.Write(head); err != nil {
			return writeError(path, err)
		}
		for _, w := range weights {
			if err := writeWeight(ctx, f, kind, w); err != nil {
				return writeError(path, err)
			}
		}
		return nil
	})
}
