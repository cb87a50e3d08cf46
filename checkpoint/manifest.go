package checkpoint

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/farandole-ml/farandole/elastic"
)

const (
	formatName    = "farandole-checkpoint"
	formatVersion = 1
)

// manifest is manifest.json: every tensor and where its bytes lie.
type manifest struct {
	Format  string           `json:"format"`
	Version int              `json:"version"`
	Meta    Meta             `json:"meta"`
	Hash    string           `json:"hash"` // the algorithm of all hashes here
	Bytes   int64            `json:"total_bytes"`
	Count   int              `json:"total_tensors"`
	Parts   []manifestPart   `json:"parts"`
	Tensors []manifestTensor `json:"tensors"`
}

type manifestPart struct {
	File        string `json:"file"`
	Bytes       int64  `json:"bytes"`
	HeaderBytes int64  `json:"header_bytes"` // the length before the JSON included
	HeaderHash  string `json:"header_hash"`
}

type manifestTensor struct {
	Name   string  `json:"name"`
	DType  string  `json:"dtype"`
	Shape  []int64 `json:"shape"`
	Pieces []piece `json:"pieces"`
}

// piece is a run of a tensor's bytes in one file; pieces are in the tensor's order.
type piece struct {
	File   string `json:"file"`
	Offset int64  `json:"offset"` // from the start of the file
	Length int64  `json:"length"`
	Hash   string `json:"hash"`
}

// partHead is what Commit learns of a part from its header.
type partHead struct {
	header []byte
	hashes []string
}

// newManifest describes a checkpoint whose parts have these heads.
func newManifest(m Meta, specs []spec, heads []partHead) *manifest {
	mf := &manifest{Format: formatName, Version: formatVersion, Meta: m, Hash: hashName, Count: len(specs)}
	mf.Tensors = make([]manifestTensor, len(specs))
	for i, s := range specs {
		mf.Tensors[i] = manifestTensor{Name: s.name, DType: "F32", Shape: s.shape}
	}
	for p, spans := range layout(specs, len(heads)) {
		file := partName(p, len(heads))
		at := int64(len(heads[p].header))
		for i, s := range spans {
			t := &mf.Tensors[s.tensor]
			t.Pieces = append(t.Pieces, piece{File: file, Offset: at, Length: s.bytes(), Hash: heads[p].hashes[i]})
			at += s.bytes()
			mf.Bytes += s.bytes()
		}
		mf.Parts = append(mf.Parts, manifestPart{
			File: file, Bytes: at, HeaderBytes: int64(len(heads[p].header)), HeaderHash: hashBytes(heads[p].header),
		})
	}
	return mf
}

func (mf *manifest) encode() ([]byte, error) {
	b, err := json.MarshalIndent(mf, "", " ")
	if err != nil {
		return nil, err
	}
	if len(b) > maxManifest {
		return nil, fmt.Errorf("the manifest has %d bytes, and the limit is %d", len(b), maxManifest)
	}
	return append(b, '\n'), nil
}

// commitLine is the content of COMMIT; `sha256sum -c COMMIT` checks it.
func commitLine(manifest []byte) []byte {
	sum := sha256.Sum256(manifest)
	return []byte(hex.EncodeToString(sum[:]) + "  " + manifestName + "\n")
}

// decodeManifest checks everything that a manifest says against the one layout that its tensors and number of parts can have.
// So a piece that is missing, overlaps, lies outside, or names another file is refused without looking for each.
func decodeManifest(b []byte, step elastic.Step) (*manifest, []spec, error) {
	mf := &manifest{}
	if err := json.Unmarshal(b, mf); err != nil {
		return nil, nil, fmt.Errorf("the manifest is not readable: %w", err)
	}
	if mf.Format != formatName || mf.Version != formatVersion || mf.Hash != hashName {
		return nil, nil, fmt.Errorf("the manifest is of format %q version %d with hash %q; this program reads %q version %d with %q",
			mf.Format, mf.Version, mf.Hash, formatName, formatVersion, hashName)
	}
	if mf.Meta.Step != step {
		return nil, nil, fmt.Errorf("the manifest is of step %d and lies in the directory of step %d", mf.Meta.Step, step)
	}
	specs := make([]spec, len(mf.Tensors))
	for i, t := range mf.Tensors {
		if t.DType != "F32" {
			return nil, nil, fmt.Errorf("tensor %q has dtype %q, not F32", t.Name, t.DType)
		}
		specs[i] = spec{name: t.Name, shape: t.Shape}
	}
	if err := checkSpecs(specs); err != nil {
		return nil, nil, err
	}
	if len(mf.Parts) == 0 || len(mf.Parts) > maxParts {
		return nil, nil, fmt.Errorf("%d parts", len(mf.Parts))
	}
	return mf, specs, mf.checkPlaces(specs)
}

func (mf *manifest) checkPlaces(specs []spec) error {
	var total int64
	next := make([]int, len(specs)) // the piece of each tensor that comes next
	for p, spans := range layout(specs, len(mf.Parts)) {
		part := mf.Parts[p]
		if want := partName(p, len(mf.Parts)); part.File != want {
			return fmt.Errorf("part %d is named %q, not %q", p, part.File, want)
		}
		if part.HeaderBytes < 8 || part.HeaderBytes > 8+maxHeader || !isHash(part.HeaderHash) {
			return fmt.Errorf("%s: a header of %d bytes with hash %q", part.File, part.HeaderBytes, part.HeaderHash)
		}
		at := part.HeaderBytes
		for _, s := range spans {
			t := &mf.Tensors[s.tensor]
			i := next[s.tensor]
			next[s.tensor]++
			if i >= len(t.Pieces) {
				return fmt.Errorf("tensor %q: piece %d is missing", t.Name, i)
			}
			pc := t.Pieces[i]
			if pc.File != part.File || pc.Offset != at || pc.Length != s.bytes() || !isHash(pc.Hash) {
				return fmt.Errorf("tensor %q: piece %d is %q [%d,+%d) with hash %q, where %s [%d,+%d) belongs",
					t.Name, i, pc.File, pc.Offset, pc.Length, pc.Hash, part.File, at, s.bytes())
			}
			at += s.bytes()
			total += s.bytes()
		}
		if part.Bytes != at {
			return fmt.Errorf("%s: %d bytes, and its pieces and header have %d", part.File, part.Bytes, at)
		}
	}
	for i, t := range mf.Tensors {
		if len(t.Pieces) != next[i] {
			return fmt.Errorf("tensor %q has %d pieces, not %d", t.Name, len(t.Pieces), next[i])
		}
	}
	if mf.Bytes != total || mf.Count != len(specs) {
		return fmt.Errorf("the totals are %d tensors and %d bytes, and there are %d and %d", mf.Count, mf.Bytes, len(specs), total)
	}
	return nil
}

func isHash(s string) bool {
	b, err := hex.DecodeString(s)
	return err == nil && len(b) == 16 && hex.EncodeToString(b) == s
}

// committed is a checkpoint whose COMMIT fits its manifest.
type committed struct {
	*manifest
	specs []spec
	dir   string // name below the Dir
}

// readCommitted reads COMMIT and the manifest of a step. No directory or no COMMIT is ErrNone; anything else that does
// not fit is a CorruptError.
func (d *Dir) readCommitted(step elastic.Step) (*committed, error) {
	dir := stepDir(step)
	commit, err := d.readSmall(dir+"/"+commitName, int64(len(commitLine(nil))))
	if isMissing(err) {
		return nil, fmt.Errorf("checkpoint %s: %w: it has no COMMIT", d.full(dir), ErrNone)
	}
	if err != nil {
		return nil, damaged(d.full(dir+"/"+commitName), err)
	}
	path := d.full(dir + "/" + manifestName)
	b, err := d.readSmall(dir+"/"+manifestName, maxManifest)
	if err != nil {
		return nil, damaged(path, err)
	}
	if !bytes.Equal(commit, commitLine(b)) {
		return nil, &CorruptError{Path: path, Reason: "its SHA-256 is not the one in COMMIT"}
	}
	mf, specs, err := decodeManifest(b, step)
	if err != nil {
		return nil, &CorruptError{Path: path, Reason: err.Error()}
	}
	return &committed{mf, specs, dir}, nil
}

var errTooLong = errors.New("the file is longer than it can be")

// readSmall reads a whole file of at most limit bytes.
func (d *Dir) readSmall(name string, limit int64) ([]byte, error) {
	f, err := d.files.open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if f.size() > limit {
		return nil, &CorruptError{Path: d.full(name), Reason: errTooLong.Error(), err: errTooLong}
	}
	b := make([]byte, f.size())
	if err := readFull(f, b, 0); err != nil {
		return nil, err
	}
	return b, nil
}

// sameSpecs says whether both list the same tensors in the same order.
func sameSpecs(a, b []spec) bool {
	return slices.EqualFunc(a, b, func(x, y spec) bool { return x.name == y.name && slices.Equal(x.shape, y.shape) })
}
