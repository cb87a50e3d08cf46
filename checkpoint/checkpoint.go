// Package checkpoint stores training state so that any crash is survivable: parts written by every rank,
// a manifest with hashes, and a COMMIT that goes last. See docs/checkpoints.md for the format.
//
// A rank calls SavePart with its number; one of them calls Commit, which waits for all parts:
//
//	dir, err := checkpoint.Open(path, true)
//	err = dir.SavePart(ctx, meta, tensors, rank, world) // on every rank
//	err = dir.Commit(ctx, meta, tensors, world)         // on one
//	meta, skipped, err := dir.LoadLatest(ctx, program, tensors)
//
// Complete means: COMMIT is present and every hash is good. Anything else is named, skipped and in the end pruned.
package checkpoint

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/farandole-ml/farandole/elastic"
)

// ErrNone says that there is no complete checkpoint.
var ErrNone = errors.New("no complete checkpoint")

// ErrSuperseded says that a later generation of the same job already wrote this part: the caller was fenced.
var ErrSuperseded = errors.New("superseded by a later generation")

// Limits on what is read from disk; whatever passes them is refused before memory is allocated for it.
const (
	maxHeader   = 100 << 20 // bytes of a safetensors header, as in the reference implementation
	maxManifest = 256 << 20 // bytes of manifest.json
	maxTensors  = 1 << 20
	maxParts    = 1 << 20
	maxName     = 1024 // bytes of a tensor's name
	maxRank     = 64   // dimensions of a tensor
	maxElements = 1 << 60
)

// Tensor is a named float32 array of the training state. Data is the memory itself: Save reads it, Load fills it.
type Tensor struct {
	Name  string
	Shape []int
	Data  []float32
}

// Meta says where a checkpoint comes from.
type Meta struct {
	Job        string             `json:"job"`
	Step       elastic.Step       `json:"step"`
	Generation elastic.Generation `json:"generation"`
	Seed       uint64             `json:"seed"`
	Shards     int                `json:"shards"`
	Wire       string             `json:"wire"`
	Class      string             `json:"numerics_class"`
	Program    string             `json:"program"` // what the program says of itself; Load refuses another
}

// Dir is a directory of checkpoints: DIR/step-00001000/{part-i-of-n.safetensors, manifest.json, COMMIT}.
// Its methods may be called by several processes at once, and by several goroutines.
type Dir struct {
	path  string
	files filesystem
}

// Open opens the directory of checkpoints at path; create makes it when missing.
func Open(path string, create bool) (*Dir, error) {
	if path == "" {
		return nil, errors.New("checkpoint: no directory given")
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("checkpoint: %w", err)
	}
	if create {
		if err := makeDurable(abs); err != nil {
			return nil, fmt.Errorf("checkpoint: make directory %s: %w", abs, err)
		}
	}
	root, err := os.OpenRoot(abs)
	if err != nil {
		return nil, fmt.Errorf("checkpoint: open directory %s: %w", abs, err)
	}
	return &Dir{path: abs, files: &osFiles{root: root}}, nil
}

// Close releases the directory. A Dir that is dropped without it is closed by the garbage collector.
func (d *Dir) Close() error { return d.files.close() }

// Path is the directory's absolute path.
func (d *Dir) Path() string { return d.path }

// Info describes one checkpoint found in a Dir.
type Info struct {
	Meta
	Path     string
	Complete bool  // COMMIT is present
	Bytes    int64 // of tensor data
	Tensors  int
	Parts    int
	Problem  string // why it is not usable; empty when nothing is known against it

	unreadable bool // the problem is none of the checkpoint's own, and may pass
}

const (
	manifestName = "manifest.json"
	commitName   = "COMMIT"
	tempPrefix   = ".tmp-"
)

func stepDir(s elastic.Step) string { return fmt.Sprintf("step-%08d", s) }

func partName(part, parts int) string { return fmt.Sprintf("part-%d-of-%d.safetensors", part, parts) }

// tempName names a file that is being written. It carries the generation, so that a later one may remove what a
// crashed earlier one left; a lower generation is fenced, so nothing alive is hurt.
func tempName(g elastic.Generation, final string, nonce uint64) string {
	return fmt.Sprintf("%sg%d-%016x-%s", tempPrefix, g, nonce, final)
}

// parseStepDir accepts exactly what stepDir makes.
func parseStepDir(name string) (elastic.Step, bool) {
	digits, ok := strings.CutPrefix(name, "step-")
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n < 0 || stepDir(elastic.Step(n)) != name {
		return 0, false
	}
	return elastic.Step(n), true
}

// tempGeneration is the generation in a name made by tempName.
func tempGeneration(name string) (elastic.Generation, bool) {
	rest, ok := strings.CutPrefix(name, tempPrefix+"g")
	if !ok {
		return 0, false
	}
	digits, _, ok := strings.Cut(rest, "-")
	g, err := strconv.ParseUint(digits, 10, 64)
	return elastic.Generation(g), ok && err == nil
}

// isPart says whether name is that of a part, of any number of parts.
func isPart(name string) bool {
	rest, ok := strings.CutPrefix(name, "part-")
	if !ok {
		return false
	}
	i, n, ok := strings.Cut(strings.TrimSuffix(rest, ".safetensors"), "-of-")
	if !ok {
		return false
	}
	part, err1 := strconv.Atoi(i)
	parts, err2 := strconv.Atoi(n)
	return err1 == nil && err2 == nil && partName(part, parts) == name
}

// full is name's path for messages.
func (d *Dir) full(name string) string { return filepath.Join(d.path, filepath.FromSlash(name)) }
