package checkpoint

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"syscall"
)

// CorruptError says that a checkpoint was complete once and is not what was written: torn, bit-flipped, or made by
// someone with other intentions.
type CorruptError struct {
	Path   string // of the file, or of the checkpoint
	Reason string
	err    error
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("checkpoint %s is corrupt: %s", e.Path, e.Reason)
}

// Unwrap is the error of the operating system, when there was one.
func (e *CorruptError) Unwrap() error { return e.err }

// MismatchError says that a checkpoint is sound and belongs to something else.
type MismatchError struct {
	Path string // of the checkpoint
	What string // "program", "tensors", "shape of wte.weight", …
	Have string // in the checkpoint
	Want string // in the caller
}

func (e *MismatchError) Error() string {
	return fmt.Sprintf("checkpoint %s does not fit: its %s is %s and this program's is %s; choose another checkpoint directory",
		e.Path, e.What, e.Have, e.Want)
}

// damaged turns an error from reading a file of a complete checkpoint into a CorruptError where it shows damage (missing,
// short, unreadable sectors), and leaves alone what an operator can mend (permissions, too many open files).
func damaged(path string, err error) error {
	var c *CorruptError
	switch {
	case err == nil, errors.As(err, &c):
		return err
	case errors.Is(err, fs.ErrNotExist):
		return &CorruptError{Path: path, Reason: "the file is missing", err: err}
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return &CorruptError{Path: path, Reason: "the file is shorter than the manifest says", err: err}
	case errors.Is(err, errNotRegular):
		return &CorruptError{Path: path, Reason: "it is not a regular file", err: err}
	case errors.Is(err, syscall.EIO):
		return &CorruptError{Path: path, Reason: "the disk cannot read it", err: err}
	}
	return fmt.Errorf("checkpoint: read %s: %w", path, err)
}

// writeError names the path of a write that did not happen, and says what to do where that is known.
func writeError(path string, err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("checkpoint: write %s: %w: free space there, or prune older checkpoints", path, err)
	}
	if errors.Is(err, syscall.EROFS) {
		return fmt.Errorf("checkpoint: write %s: %w: mount it writable, or choose another checkpoint directory", path, err)
	}
	return fmt.Errorf("checkpoint: write %s: %w", path, err)
}
