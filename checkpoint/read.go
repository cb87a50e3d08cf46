package checkpoint

import (
	"context"
	"errors"
	"fmt"
	"runtime"

	"golang.org/x/sync/errgroup"

	"github.com/farandole-ml/farandole/elastic"
)

// batchBytes is about how much one goroutine reads before the next one takes over.
const batchBytes = 64 << 20

// List gives all checkpoints, oldest first, without reading tensor data.
func (d *Dir) List() ([]Info, error) {
	entries, err := d.files.readDir(".")
	if err != nil {
		return nil, fmt.Errorf("checkpoint: list %s: %w", d.path, err)
	}
	var infos []Info
	for _, e := range entries {
		if step, ok := parseStepDir(e.name); ok && e.dir {
			infos = append(infos, d.inspect(step))
		}
	}
	// Names sort as steps do up to eight digits only.
	sortBySteps(infos)
	return infos, nil
}

// inspect looks at one step's COMMIT, manifest and sizes of files.
func (d *Dir) inspect(step elastic.Step) Info {
	info := Info{Meta: Meta{Step: step}, Path: d.full(stepDir(step))}
	c, err := d.readCommitted(step)
	if errors.Is(err, ErrNone) {
		info.Problem = "not complete: it has no COMMIT"
		return info
	}
	info.Complete = true
	if err == nil {
		info.Meta, info.Bytes, info.Tensors, info.Parts = c.Meta, c.Bytes, c.Count, len(c.Parts)
		for _, p := range c.Parts {
			if err = d.checkSize(c, p); err != nil {
				break
			}
		}
	}
	if err != nil {
		info.Problem = err.Error()
		var corrupt *CorruptError
		if errors.As(err, &corrupt) {
			info.Problem = fmt.Sprintf("%s: %s", corrupt.Path, corrupt.Reason)
		} else {
			info.unreadable = true
		}
	}
	return info
}

// Latest is the newest complete checkpoint against which nothing is known, or ErrNone. It reads no tensor data.
func (d *Dir) Latest() (Info, error) {
	infos, err := d.List()
	if err != nil {
		return Info{}, err
	}
	for i := len(infos) - 1; i >= 0; i-- {
		if infos[i].Complete && infos[i].Problem == "" {
			return infos[i], nil
		}
	}
	return Info{}, fmt.Errorf("checkpoint: %s: %w", d.path, ErrNone)
}

// Verify reads the whole checkpoint of a step and checks every hash. Damage is a CorruptError; a step that is not
// there or not complete is ErrNone.
func (d *Dir) Verify(ctx context.Context, step elastic.Step) error {
	c, err := d.readCommitted(step)
	if err != nil {
		return err
	}
	return d.verify(ctx, c)
}

func (d *Dir) verify(ctx context.Context, c *committed) error {
	for p, spans := range layout(c.specs, len(c.Parts)) {
		if err := d.verifyEntries(c, c.Parts[p], spans); err != nil {
			return err
		}
	}
	return d.readPieces(ctx, c, nil)
}

// verifyEntries checks that a part says of itself what the manifest says: other programs read the part alone.
func (d *Dir) verifyEntries(c *committed, part manifestPart, spans []span) error {
	path := d.full(c.dir + "/" + part.File)
	h, err := d.headOf(c.dir + "/" + part.File)
	if err != nil {
		if derr := damaged(path, err); errors.As(derr, new(*CorruptError)) {
			return derr
		}
		return &CorruptError{Path: path, Reason: err.Error(), err: err}
	}
	if len(h.entries) != len(spans) {
		return &CorruptError{Path: path, Reason: fmt.Sprintf("it has %d entries, not %d", len(h.entries), len(spans))}
	}
	at := int64(0)
	for i, s := range spans {
		want, got := entryOf(c.specs, s), h.entries[i]
		if got.name != want.name || got.dtype != want.dtype || shapeString(got.shape) != shapeString(want.shape) || got.begin != at {
			return &CorruptError{Path: path, Reason: fmt.Sprintf("it has %q where %q belongs", got.name, want.name)}
		}
		at = got.end
	}
	return nil
}

// Load fills tensors from the checkpoint of step, checking names, shapes and hashes. On any error the contents
// of tensors are undefined. A checkpoint of another program is refused with an error that names both (a MismatchError),
// as is one with other tensors; their order does not matter. Damage is a CorruptError; no complete checkpoint of
// that step is ErrNone.
func (d *Dir) Load(ctx context.Context, step elastic.Step, program string, tensors []Tensor) (Meta, error) {
	specs, err := specsOf(tensors, true)
	if err != nil {
		return Meta{}, fmt.Errorf("checkpoint: %w", err)
	}
	c, err := d.readCommitted(step)
	if err != nil {
		return Meta{}, err
	}
	if c.Meta.Program != program {
		return Meta{}, &MismatchError{
			Path: d.full(c.dir), What: "program",
			Have: fmt.Sprintf("%q", c.Meta.Program), Want: fmt.Sprintf("%q", program),
		}
	}
	if err := d.tensorMismatch(c, specs); err != nil {
		return Meta{}, err
	}
	byName := make(map[string][]float32, len(tensors))
	for _, t := range tensors {
		byName[t.Name] = t.Data
	}
	if err := d.readPieces(ctx, c, byName); err != nil {
		return Meta{}, err
	}
	return c.Meta, nil
}

// LoadLatest fills tensors from the newest complete checkpoint that is good. Corrupt ones are skipped and returned, newest
// first, for the caller to log. When none is left the error is ErrNone; a checkpoint of another program is an error, not skipped.
func (d *Dir) LoadLatest(ctx context.Context, program string, tensors []Tensor) (m Meta, skipped []*CorruptError, err error) {
	infos, err := d.List()
	if err != nil {
		return Meta{}, nil, err
	}
	for i := len(infos) - 1; i >= 0; i-- {
		if !infos[i].Complete {
			continue
		}
		m, err := d.Load(ctx, infos[i].Step, program, tensors)
		var corrupt *CorruptError
		if errors.As(err, &corrupt) {
			skipped = append(skipped, corrupt)
			continue
		}
		if errors.Is(err, ErrNone) { // pruned or rejected since it was listed
			continue
		}
		return m, skipped, err
	}
	return Meta{}, skipped, fmt.Errorf("checkpoint: %s: %w", d.path, ErrNone)
}

// tensorMismatch says how the tensors of c differ from those wanted, or nil. Order does not matter.
func (d *Dir) tensorMismatch(c *committed, want []spec) error {
	have := make(map[string]spec, len(c.specs))
	for _, s := range c.specs {
		have[s.name] = s
	}
	for _, w := range want {
		h, ok := have[w.name]
		if !ok {
			return &MismatchError{Path: d.full(c.dir), What: fmt.Sprintf("tensor %q", w.name), Have: "absent", Want: "of shape " + shapeString(w.shape)}
		}
		if shapeString(h.shape) != shapeString(w.shape) {
			return &MismatchError{Path: d.full(c.dir), What: fmt.Sprintf("shape of %q", w.name), Have: shapeString(h.shape), Want: shapeString(w.shape)}
		}
		delete(have, w.name)
	}
	for _, s := range c.specs {
		if _, left := have[s.name]; left {
			return &MismatchError{Path: d.full(c.dir), What: fmt.Sprintf("tensor %q", s.name), Have: "of shape " + shapeString(s.shape), Want: "absent"}
		}
	}
	return nil
}

// checkSize checks that a part is there and has its size.
func (d *Dir) checkSize(c *committed, p manifestPart) error {
	f, err := d.partFile(c, p)
	if err != nil {
		return err
	}
	return f.Close()
}

// partFile opens a part and checks its size.
func (d *Dir) partFile(c *committed, p manifestPart) (readFile, error) {
	name := c.dir + "/" + p.File
	f, err := d.files.open(name)
	if err != nil {
		return nil, damaged(d.full(name), err)
	}
	if f.size() != p.Bytes {
		_ = f.Close()
		return nil, &CorruptError{Path: d.full(name), Reason: fmt.Sprintf("it has %d bytes, and the manifest says %d", f.size(), p.Bytes)}
	}
	return f, nil
}

// target is a piece and where its bytes go; nil when they are only checked.
type target struct {
	piece
	tensor string
	data   []float32
}

// readPieces reads every header of c and its pieces and checks their hashes, several goroutines at once. With into it
// reads and fills the tensors of these names only; without, it checks all.
func (d *Dir) readPieces(ctx context.Context, c *committed, into map[string][]float32) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(min(runtime.GOMAXPROCS(0), 8))
	next := make([]int, len(c.specs))
	for p, spans := range layout(c.specs, len(c.Parts)) {
		part := c.Parts[p]
		g.Go(func() error { return d.readHead(c, part) })
		var batch []target
		var size int64
		for i, s := range spans {
			t := c.Tensors[s.tensor]
			to := target{piece: t.Pieces[next[s.tensor]], tensor: t.Name}
			next[s.tensor]++
			data, wanted := into[t.Name]
			if wanted {
				to.data = data[s.first:s.end]
			}
			if wanted || into == nil {
				batch, size = append(batch, to), size+to.Length
			}
			if len(batch) > 0 && (size >= batchBytes || i == len(spans)-1) {
				whole := batch
				g.Go(func() error { return d.readBatch(ctx, c, part, whole, into != nil) })
				batch, size = nil, 0
			}
		}
	}
	return g.Wait()
}

// readHead checks a part's size and the hash of its header.
func (d *Dir) readHead(c *committed, part manifestPart) error {
	f, err := d.partFile(c, part)
	if err != nil {
		return err
	}
	defer f.Close()
	path := d.full(c.dir + "/" + part.File)
	b := make([]byte, part.HeaderBytes) // at most the file's size, which was checked
	if err := readFull(f, b, 0); err != nil {
		return damaged(path, err)
	}
	if hashBytes(b) != part.HeaderHash {
		return &CorruptError{Path: path, Reason: "the hash of its header is wrong"}
	}
	return nil
}

func (d *Dir) readBatch(ctx context.Context, c *committed, part manifestPart, batch []target, fill bool) error {
	f, err := d.partFile(c, part)
	if err != nil {
		return err
	}
	defer f.Close()
	var scratch []byte
	if !fill {
		scratch = make([]byte, min(part.Bytes, chunk))
	}
	for _, t := range batch {
		sum, err := readPiece(ctx, f, t, scratch)
		path := d.full(c.dir + "/" + part.File)
		if err != nil {
			if ctx.Err() != nil {
				return fmt.Errorf("checkpoint: read %s: %w", path, context.Cause(ctx))
			}
			return damaged(path, err)
		}
		if sum != t.Hash {
			return wrongHash(path, t)
		}
	}
	return nil
}

func wrongHash(path string, t target) error {
	return &CorruptError{Path: path, Reason: fmt.Sprintf("the hash of %d bytes of tensor %q at offset %d is wrong", t.Length, t.tensor, t.Offset)}
}

// readPiece reads a piece into its data, or through scratch when that is not nil, and gives the hash of its bytes.
func readPiece(ctx context.Context, f readFile, t target, scratch []byte) (string, error) {
	h := newHash()
	into := memory(t.data)
	for at := int64(0); at < t.Length; {
		if err := ctx.Err(); err != nil {
			return "", err
		}
		n := min(t.Length-at, chunk)
		b := scratch
		if scratch == nil {
			b = into[at:]
		}
		if err := readFull(f, b[:n], t.Offset+at); err != nil {
			return "", err
		}
		h.Write(b[:n])
		at += n
	}
	if bigEndian {
		swap(into, 4)
	}
	return sumHex(h), nil
}
