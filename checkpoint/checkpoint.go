// Package checkpoint stores training state so that any crash is survivable: parts written by every rank,
// a manifest with hashes, and a COMMIT that goes last. See docs/checkpoints.md for the format.
package checkpoint

import (
	"context"
	"errors"

	"github.com/farandole-ml/farandole/elastic"
)

// ErrNone says that there is no complete checkpoint.
var ErrNone = errors.New("no complete checkpoint")

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
// Its methods may be called by several processes at once.
type Dir struct {
	path string
}

// Open opens the directory of checkpoints at path; create makes it when missing.
func Open(path string, create bool) (*Dir, error) { panic("TODO") }

// Info describes one checkpoint found in a Dir.
type Info struct {
	Meta
	Path     string
	Complete bool  // COMMIT is present
	Bytes    int64 // of tensor data
	Tensors  int
	Parts    int
	Problem  string // why it is not usable; empty when nothing is known against it
}

// SavePart writes this rank's equal share of the bytes of tensors: part of parts. It is idempotent and atomic:
// write, fsync, rename, fsync of the directory.
func (d *Dir) SavePart(ctx context.Context, m Meta, tensors []Tensor, part, parts int) error {
	panic("TODO")
}

// Commit waits until all parts of the step are there (until ctx ends), writes the manifest and then COMMIT.
func (d *Dir) Commit(ctx context.Context, m Meta, tensors []Tensor, parts int) error { panic("TODO") }

// List gives all checkpoints, oldest first, without reading tensor data.
func (d *Dir) List() ([]Info, error) { panic("TODO") }

// Latest is the newest complete checkpoint, or ErrNone.
func (d *Dir) Latest() (Info, error) { panic("TODO") }

// Verify reads the whole checkpoint of a step and checks every hash.
func (d *Dir) Verify(ctx context.Context, step elastic.Step) error { panic("TODO") }

// Load fills tensors from the checkpoint of step, checking names, shapes and hashes. On any error the contents
// of tensors are undefined. A checkpoint of another program is refused with an error that names both.
func (d *Dir) Load(ctx context.Context, step elastic.Step, program string, tensors []Tensor) (Meta, error) {
	panic("TODO")
}

// Prune deletes all but the newest keep complete checkpoints, and torn ones older than the newest complete one.
// The newest complete one is never deleted.
func (d *Dir) Prune(keep int) (deleted []elastic.Step, err error) { panic("TODO") }
