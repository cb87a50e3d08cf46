package checkpoint

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// filesystem is what a Dir needs of a file system, so that tests can crash it at any operation. Names are relative
// to the Dir and separated by slashes. No name leads out of the Dir, by "..", by a symbolic link or otherwise.
type filesystem interface {
	mkdir(dir string) error                // an existing directory is no error
	create(name string) (writeFile, error) // name must not exist
	open(name string) (readFile, error)    // regular files only
	readDir(dir string) ([]dirEntry, error)
	rename(from, to string) error // replaces to
	remove(name string) error     // a file or an empty directory
	syncDir(dir string) error     // makes the entries of dir durable
	close() error
}

type writeFile interface {
	io.Writer
	Sync() error
	Close() error
}

type readFile interface {
	io.ReaderAt
	io.Closer
	size() int64
}

type dirEntry struct {
	name    string
	dir     bool
	regular bool
}

var errNotRegular = errors.New("not a regular file")

// osFiles is the operating system's file system below root.
type osFiles struct{ root *os.Root }

func (o *osFiles) mkdir(dir string) error {
	err := o.root.Mkdir(filepath.FromSlash(dir), 0o777)
	if errors.Is(err, fs.ErrExist) {
		info, statErr := o.root.Lstat(filepath.FromSlash(dir))
		if statErr == nil && info.IsDir() {
			return nil
		}
	}
	return err
}

func (o *osFiles) create(name string) (writeFile, error) {
	f, err := o.root.OpenFile(filepath.FromSlash(name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return nil, err // a nil *os.File must not become a non-nil interface
	}
	return f, nil
}

type osFile struct {
	*os.File
	length int64
}

func (f osFile) size() int64 { return f.length }

func (o *osFiles) open(name string) (readFile, error) {
	name = filepath.FromSlash(name)
	// Looked at before it is opened: opening a pipe would block, and a link may point to another checkpoint.
	info, err := o.root.Lstat(name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, &fs.PathError{Op: "open", Path: name, Err: errNotRegular}
	}
	f, err := o.root.Open(name)
	if err != nil {
		return nil, err
	}
	opened, err := f.Stat()
	if err == nil && !os.SameFile(info, opened) && !opened.Mode().IsRegular() {
		err = &fs.PathError{Op: "open", Path: name, Err: errNotRegular}
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return osFile{f, opened.Size()}, nil
}

func (o *osFiles) readDir(dir string) ([]dirEntry, error) {
	f, err := o.root.Open(filepath.FromSlash(dir))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	found, err := f.ReadDir(-1)
	if err != nil {
		return nil, err
	}
	entries := make([]dirEntry, len(found))
	for i, e := range found {
		entries[i] = dirEntry{name: e.Name(), dir: e.IsDir(), regular: e.Type().IsRegular()}
	}
	slices.SortFunc(entries, func(a, b dirEntry) int { return strings.Compare(a.name, b.name) })
	return entries, nil
}

func (o *osFiles) rename(from, to string) error {
	return o.root.Rename(filepath.FromSlash(from), filepath.FromSlash(to))
}

func (o *osFiles) remove(name string) error { return o.root.Remove(filepath.FromSlash(name)) }

func (o *osFiles) syncDir(dir string) error {
	f, err := o.root.Open(filepath.FromSlash(dir))
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

func (o *osFiles) close() error { return o.root.Close() }

// makeDurable makes the directory at path and its parents, each entry synced.
func makeDurable(path string) error {
	if info, err := os.Stat(path); err == nil {
		if !info.IsDir() {
			return errors.New("there is a file of that name")
		}
		return nil
	}
	parent := filepath.Dir(path)
	if parent != path {
		if err := makeDurable(parent); err != nil {
			return err
		}
	}
	if err := os.Mkdir(path, 0o777); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return syncPath(parent)
}

// syncPath makes the entries of the directory at path durable.
func syncPath(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}
