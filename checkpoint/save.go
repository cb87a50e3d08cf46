package checkpoint

import (
	"bufio"
	"context"
	"errors"
	"fmt"

	"github.com/farandole-ml/farandole/elastic"
)

// SavePart writes this rank's equal share of the bytes of tensors: part of parts. It is idempotent and atomic:
// write, fsync, rename, fsync of the directory. It reads only its share of the Data (see Share); nobody may write there meanwhile.
//
// A step that is complete and good is left alone; one that is complete and corrupt is written anew. ErrSuperseded
// says that a later generation of the job wrote this part before.
func (d *Dir) SavePart(ctx context.Context, m Meta, tensors []Tensor, part, parts int) error {
	specs, err := checkSave(m, tensors, parts, true)
	if err != nil {
		return err
	}
	if part < 0 || part >= parts {
		return fmt.Errorf("checkpoint: part %d of %d", part, parts)
	}
	if done, err := d.settled(ctx, m, specs); done || err != nil {
		return err
	}
	dir := stepDir(m.Step)
	if err := d.files.mkdir(dir); err != nil {
		return writeError(d.full(dir), err)
	}
	// Synced even when the directory was there: the process that made it may not have come so far.
	if err := d.files.syncDir("."); err != nil {
		return writeError(d.path, err)
	}
	if err := d.removeOlderTemps(dir, m.Generation); err != nil {
		return err
	}

	spans := layout(specs, parts)[part]
	hashes, err := hashSpans(ctx, tensors, spans)
	if err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	head, err := partHeader(m, specs, spans, part, parts, hashes)
	if err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	name := dir + "/" + partName(part, parts)
	err = d.place(m.Generation, name,
		func(f writeFile) error { return writePart(ctx, f, head, tensors, spans) },
		func() error { return d.mayPlace(m, name) })
	if errors.Is(err, errCompleted) {
		return nil
	}
	return err
}

// Span is a run of a tensor's elements: [First, End) of its row-major order.
type Span struct {
	Tensor     int // index in the list of tensors
	First, End int
}

// Share is what SavePart reads of tensors, of which only Name and Shape matter here: a caller that saves in the background
// need copy no more than this.
func Share(tensors []Tensor, part, parts int) ([]Span, error) {
	specs, err := specsOf(tensors, false)
	if err != nil {
		return nil, fmt.Errorf("checkpoint: %w", err)
	}
	if parts < 1 || parts > maxParts || part < 0 || part >= parts {
		return nil, fmt.Errorf("checkpoint: part %d of %d", part, parts)
	}
	var out []Span
	for _, s := range layout(specs, parts)[part] {
		out = append(out, Span{s.tensor, int(s.first), int(s.end)})
	}
	return out, nil
}

// checkSave checks the arguments that SavePart and Commit have in common.
func checkSave(m Meta, tensors []Tensor, parts int, withData bool) ([]spec, error) {
	if m.Step < 0 {
		return nil, fmt.Errorf("checkpoint: negative step %d", m.Step)
	}
	if parts < 1 || parts > maxParts {
		return nil, fmt.Errorf("checkpoint: %d parts, where 1 to %d are possible", parts, maxParts)
	}
	specs, err := specsOf(tensors, withData)
	if err != nil {
		return nil, fmt.Errorf("checkpoint: %w", err)
	}
	return specs, nil
}

var errCompleted = errors.New("the step is complete")

// mayPlace is asked just before a part gets its name: not over a complete step, and not over a later generation.
func (d *Dir) mayPlace(m Meta, name string) error {
	if _, err := d.readCommitted(m.Step); err == nil {
		return errCompleted
	}
	h, err := d.headOf(name)
	if err != nil {
		return nil //nolint:nilerr // nothing there, or nothing worth keeping
	}
	old, err := metaOf(h)
	if err == nil && old.Job == m.Job && old.Generation > m.Generation {
		return fmt.Errorf("checkpoint: %s: %w: generation %d is there, this is %d", d.full(name), ErrSuperseded, old.Generation, m.Generation)
	}
	return nil
}

// settled says whether the step is complete already, with these tensors and good data. A step that is complete and corrupt
// loses its COMMIT, so that it can be written anew; one of another program is a MismatchError.
func (d *Dir) settled(ctx context.Context, m Meta, specs []spec) (bool, error) {
	c, err := d.readCommitted(m.Step)
	if errors.Is(err, ErrNone) {
		return false, nil
	}
	if err == nil {
		if err := d.sameRun(c, m, specs); err != nil {
			return false, err
		}
		// This very generation has just written it: no need to read it all again for every rank that asks.
		if c.Meta != m {
			err = d.verify(ctx, c)
		}
	}
	if err == nil {
		return true, d.syncStep(m.Step)
	}
	var corrupt *CorruptError
	if !errors.As(err, &corrupt) {
		return false, err
	}
	return false, d.reject(m.Step)
}

// sameRun says whether c is what m would save, up to the job's name and the generation.
func (d *Dir) sameRun(c *committed, m Meta, specs []spec) error {
	have := c.Meta
	have.Job, have.Generation = m.Job, m.Generation
	if have != m {
		return &MismatchError{Path: d.full(c.dir), What: "origin", Have: describe(have), Want: describe(m)}
	}
	if !sameSpecs(c.specs, specs) {
		return d.tensorMismatch(c, specs)
	}
	return nil
}

func describe(m Meta) string {
	return fmt.Sprintf("(program %q, seed %d, %d shards, wire %q, numerics class %q)", m.Program, m.Seed, m.Shards, m.Wire, m.Class)
}

// reject takes COMMIT from a step.
func (d *Dir) reject(step elastic.Step) error {
	name := stepDir(step) + "/" + commitName
	if err := d.files.remove(name); err != nil && !isMissing(err) {
		return writeError(d.full(name), err)
	}
	if err := d.files.syncDir(stepDir(step)); err != nil {
		return writeError(d.full(stepDir(step)), err)
	}
	return nil
}

// syncStep makes the entries of a complete step durable once more: whoever renamed them may have crashed before it did.
func (d *Dir) syncStep(step elastic.Step) error {
	for _, dir := range []string{stepDir(step), "."} {
		if err := d.files.syncDir(dir); err != nil {
			return writeError(d.full(dir), err)
		}
	}
	return nil
}

func hashSpans(ctx context.Context, tensors []Tensor, spans []span) ([]string, error) {
	hashes := make([]string, len(spans))
	h := newHash()
	for i, s := range spans {
		h.Reset()
		err := eachChunk(ctx, tensors[s.tensor].Data[s.first:s.end], func(b []byte) error {
			_, err := h.Write(b)
			return err
		})
		if err != nil {
			return nil, err
		}
		hashes[i] = sumHex(h)
	}
	return hashes, nil
}

func writePart(ctx context.Context, f writeFile, head []byte, tensors []Tensor, spans []span) error {
	size := int64(len(head))
	for _, s := range spans {
		size += s.bytes()
	}
	w := bufio.NewWriterSize(f, int(min(size, chunk))) // small tensors together; a full chunk passes through uncopied
	if _, err := w.Write(head); err != nil {
		return err
	}
	for _, s := range spans {
		err := eachChunk(ctx, tensors[s.tensor].Data[s.first:s.end], func(b []byte) error {
			_, err := w.Write(b)
			return err
		})
		if err != nil {
			return err
		}
	}
	return w.Flush()
}

// eachChunk gives data's bytes to use, little-endian, a chunk at a time, and stops when ctx ends.
func eachChunk(ctx context.Context, data []float32, use func([]byte) error) error {
	for len(data) > 0 {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		n := min(len(data), chunk/4)
		if err := use(littleEndian(data[:n])); err != nil {
			return err
		}
		data = data[n:]
	}
	return context.Cause(ctx)
}
