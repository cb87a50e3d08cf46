package checkpoint

import (
	"bytes"
	"errors"
	"io/fs"
	"maps"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"sync"
)

var errCrashed = errors.New("the machine crashed")

// crashFS is a file system in memory that knows what would be left after a power cut: of a file, what was written before its
// last Sync; of a directory, the entries at its last syncDir. Anything since may or may not be there, in any combination.
type crashFS struct {
	mu      sync.Mutex
	root    *memDir
	ops     int // operations that change something
	crashAt int // the number of the operation at which the machine crashes; 0 for never
	fail    func(op int, kind string) error
	crashed bool
}

type memDir struct{ live, durable map[string]any } // of *memDir or *memFile

type memFile struct{ live, durable []byte }

func newCrashFS() *crashFS { return &crashFS{root: newMemDir()} }

func newMemDir() *memDir { return &memDir{map[string]any{}, map[string]any{}} }

// step counts an operation and says whether it takes place. Called with mu held.
func (c *crashFS) step(kind, name string) error {
	c.ops++
	if c.ops == c.crashAt {
		c.crashed = true
	}
	if c.crashed {
		return errCrashed
	}
	if c.fail != nil {
		if err := c.fail(c.ops, kind); err != nil {
			return &fs.PathError{Op: kind, Path: name, Err: err}
		}
	}
	return nil
}

func (c *crashFS) dir(name string) (*memDir, error) {
	at := c.root
	if name == "." || name == "" {
		return at, nil
	}
	for _, part := range strings.Split(name, "/") {
		next, ok := at.live[part].(*memDir)
		if !ok {
			return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
		}
		at = next
	}
	return at, nil
}

// parent gives the directory of name and its base name.
func (c *crashFS) parent(name string) (*memDir, string, error) {
	d, err := c.dir(path.Dir(name))
	return d, path.Base(name), err
}

func (c *crashFS) mkdir(name string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	d, base, err := c.parent(name)
	if err != nil {
		return err
	}
	if _, ok := d.live[base].(*memDir); ok {
		return nil
	}
	if err := c.step("mkdir", name); err != nil {
		return err
	}
	d.live[base] = newMemDir()
	return nil
}

func (c *crashFS) create(name string) (writeFile, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	d, base, err := c.parent(name)
	if err != nil {
		return nil, err
	}
	if d.live[base] != nil {
		return nil, &fs.PathError{Op: "create", Path: name, Err: fs.ErrExist}
	}
	if err := c.step("create", name); err != nil {
		return nil, err
	}
	f := &memFile{}
	d.live[base] = f
	return &memWriter{c, f, name}, nil
}

type memWriter struct {
	fs   *crashFS
	file *memFile
	name string
}

func (w *memWriter) Write(b []byte) (int, error) {
	w.fs.mu.Lock()
	defer w.fs.mu.Unlock()
	if err := w.fs.step("write", w.name); err != nil {
		w.file.live = append(w.file.live, b[:len(b)/2]...)
		return len(b) / 2, err
	}
	w.file.live = append(w.file.live, b...)
	return len(b), nil
}

func (w *memWriter) Sync() error {
	w.fs.mu.Lock()
	defer w.fs.mu.Unlock()
	if err := w.fs.step("sync", w.name); err != nil {
		return err
	}
	w.file.durable = bytes.Clone(w.file.live)
	return nil
}

func (w *memWriter) Close() error { return nil }

type memReader struct{ *bytes.Reader }

func (memReader) Close() error  { return nil }
func (r memReader) size() int64 { return r.Size() }

func (c *crashFS) open(name string) (readFile, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.crashed {
		return nil, errCrashed
	}
	d, base, err := c.parent(name)
	if err != nil {
		return nil, err
	}
	switch f := d.live[base].(type) {
	case *memFile:
		return memReader{bytes.NewReader(bytes.Clone(f.live))}, nil
	case *memDir:
		return nil, errNotRegular
	}
	return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
}

func (c *crashFS) readDir(name string) (out []dirEntry, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.crashed {
		return nil, errCrashed
	}
	d, err := c.dir(name)
	if err != nil {
		return nil, err
	}
	for _, n := range slices.Sorted(maps.Keys(d.live)) {
		_, isDir := d.live[n].(*memDir)
		out = append(out, dirEntry{name: n, dir: isDir, regular: !isDir})
	}
	return out, nil
}

func (c *crashFS) rename(from, to string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	d, base, err := c.parent(from)
	if err != nil {
		return err
	}
	if d.live[base] == nil {
		return &fs.PathError{Op: "rename", Path: from, Err: fs.ErrNotExist}
	}
	if err := c.step("rename", to); err != nil {
		return err
	}
	d.live[path.Base(to)] = d.live[base] // always within one directory here
	delete(d.live, base)
	return nil
}

func (c *crashFS) remove(name string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	d, base, err := c.parent(name)
	if err != nil {
		return err
	}
	if d.live[base] == nil {
		return &fs.PathError{Op: "remove", Path: name, Err: fs.ErrNotExist}
	}
	if sub, ok := d.live[base].(*memDir); ok && len(sub.live) > 0 {
		return &fs.PathError{Op: "remove", Path: name, Err: errors.New("directory not empty")}
	}
	if err := c.step("remove", name); err != nil {
		return err
	}
	delete(d.live, base)
	return nil
}

func (c *crashFS) syncDir(name string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	d, err := c.dir(name)
	if err != nil {
		return err
	}
	if err := c.step("syncdir", name); err != nil {
		return err
	}
	d.durable = maps.Clone(d.live)
	return nil
}

func (c *crashFS) close() error { return nil }

// reboot gives the file system as it may be found after a power cut: with nothing of what was not synced (r nil), or with a
// random choice of it.
func (c *crashFS) reboot(r *rand.Rand) *crashFS {
	c.mu.Lock()
	defer c.mu.Unlock()
	return &crashFS{root: rebootDir(c.root, r)}
}

func rebootDir(d *memDir, r *rand.Rand) *memDir {
	out := newMemDir()
	names := maps.Clone(d.durable)
	maps.Copy(names, d.live)
	for _, name := range slices.Sorted(maps.Keys(names)) {
		node := d.durable[name]
		if r != nil && r.IntN(2) == 0 {
			node = d.live[name]
		}
		switch n := node.(type) {
		case *memDir:
			out.live[name] = rebootDir(n, r)
		case *memFile:
			b := rebootFile(n, r)
			out.live[name] = &memFile{b, b}
		}
	}
	out.durable = maps.Clone(out.live)
	return out
}

func rebootFile(f *memFile, r *rand.Rand) []byte {
	if r == nil || bytes.Equal(f.live, f.durable) {
		return bytes.Clone(f.durable)
	}
	switch r.IntN(4) {
	case 0:
		return bytes.Clone(f.durable)
	case 1:
		return bytes.Clone(f.live)
	case 2: // a prefix reached the disk
		return bytes.Clone(f.live[:r.IntN(len(f.live)+1)])
	}
	b := bytes.Clone(f.live) // the length reached the disk, and not all blocks
	clear(b[r.IntN(len(b)+1):])
	return b
}

// files lists what is there now: path → content.
func (c *crashFS) files() map[string]*memFile {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := map[string]*memFile{}
	var walk func(prefix string, d *memDir)
	walk = func(prefix string, d *memDir) {
		for name, node := range d.live {
			switch n := node.(type) {
			case *memDir:
				walk(prefix+name+"/", n)
			case *memFile:
				out[prefix+name] = n
			}
		}
	}
	walk("", c.root)
	return out
}

// temps lists unfinished files.
func (c *crashFS) temps() (out []string) {
	for name := range c.files() {
		if strings.HasPrefix(path.Base(name), tempPrefix) {
			out = append(out, name)
		}
	}
	return out
}
