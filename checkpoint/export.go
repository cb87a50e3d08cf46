package checkpoint

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/farandole-ml/farandole/elastic"
)

// Export joins the checkpoint of a step into one safetensors file at path, checking every hash on the way. The file appears
// whole or not at all, and replaces what was there.
func (d *Dir) Export(ctx context.Context, step elastic.Step, path string) error {
	c, err := d.readCommitted(step)
	if err != nil {
		return err
	}
	return writeWhole(path, func(f *os.File) error { return d.export(ctx, c, f) })
}

// ExportGPT2 writes the weights of the checkpoint of a step as WriteGPT2 does, checking their hashes. layout names them and has
// their shapes in the checkpoint; their Data is not used. What else the checkpoint has, the optimizer's state, stays behind.
func (d *Dir) ExportGPT2(ctx context.Context, step elastic.Step, path, dtype string, layout []Weight) error {
	c, err := d.readCommitted(step)
	if err != nil {
		return err
	}
	if err := checkWeights(layout, false); err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	have := make(map[string]spec, len(c.specs))
	for _, s := range c.specs {
		have[s.name] = s
	}
	weights := slices.Clone(layout)
	into := make(map[string][]float32, len(weights))
	for i := range weights {
		w := &weights[i]
		s, ok := have[w.Name]
		if !ok || !slices.Equal(s.shape, shapeOf(w.Tensor)) {
			return fmt.Errorf("checkpoint %s has no tensor %q of shape %v: it is of no GPT-2 that this version knows", d.full(c.dir), w.Name, w.Shape)
		}
		w.Data = make([]float32, s.elements)
		into[w.Name] = w.Data
	}
	if err := d.readPieces(ctx, c, into); err != nil {
		return err
	}
	return WriteGPT2(ctx, path, dtype, weights)
}

// writeWhole has write fill a file that appears at path whole or not at all, and replaces what was there.
func writeWhole(path string, write func(f *os.File) error) (err error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	f, err := os.CreateTemp(filepath.Dir(abs), "."+filepath.Base(abs)+".tmp-*")
	if err != nil {
		return writeError(abs, err)
	}
	defer func() {
		if err != nil {
			_ = f.Close()
			os.Remove(f.Name())
		}
	}()
	if err := write(f); err != nil {
		return err
	}
	// CreateTemp makes files that only their owner reads; a model is meant to be handed on.
	if err := f.Chmod(exportMode(abs)); err != nil {
		return writeError(abs, err)
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return writeError(abs, err)
	}
	if err := os.Rename(f.Name(), abs); err != nil {
		return writeError(abs, err)
	}
	if err := syncPath(filepath.Dir(abs)); err != nil {
		return writeError(abs, err)
	}
	return nil
}

func exportMode(path string) fs.FileMode {
	if info, err := os.Stat(path); err == nil {
		return info.Mode().Perm()
	}
	return 0o644
}

// export writes the joined file. The parts' data, one after the other, are the tensors' data in order.
func (d *Dir) export(ctx context.Context, c *committed, f *os.File) error {
	meta, err := json.Marshal(c.Meta)
	if err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	entries := make([]entry, len(c.specs))
	for i, s := range c.specs {
		entries[i] = entry{name: s.name, dtype: "F32", shape: s.shape}
	}
	head, err := encodeHeader(partMetadata(string(meta), "", ""), entries)
	if err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	if _, err := f.Write(head); err != nil {
		return writeError(f.Name(), err)
	}
	files := make(map[string]manifestPart, len(c.Parts))
	for _, p := range c.Parts {
		if err := d.readHead(c, p); err != nil {
			return err
		}
		files[p.File] = p
	}
	scratch := make([]byte, chunk)
	for _, t := range c.Tensors {
		for _, pc := range t.Pieces {
			if err := d.copyPiece(ctx, c, files[pc.File], target{piece: pc, tensor: t.Name}, f, scratch); err != nil {
				return err
			}
		}
	}
	return nil
}

func (d *Dir) copyPiece(ctx context.Context, c *committed, part manifestPart, t target, to *os.File, scratch []byte) error {
	f, err := d.partFile(c, part)
	if err != nil {
		return err
	}
	defer f.Close()
	path := d.full(c.dir + "/" + part.File)
	h := newHash()
	for at := int64(0); at < t.Length; {
		if ctx.Err() != nil {
			return fmt.Errorf("checkpoint: export %s: %w", path, context.Cause(ctx))
		}
		b := scratch[:min(t.Length-at, chunk)]
		if err := readFull(f, b, t.Offset+at); err != nil {
			return damaged(path, err)
		}
		h.Write(b)
		if _, err := to.Write(b); err != nil {
			return writeError(to.Name(), err)
		}
		at += int64(len(b))
	}
	if sumHex(h) != t.Hash {
		return wrongHash(path, t)
	}
	return nil
}
