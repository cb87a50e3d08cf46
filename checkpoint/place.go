package checkpoint

import (
	"errors"
	"io/fs"
	"math/rand/v2"
	"path"
	"strings"

	"github.com/farandole-ml/farandole/elastic"
)

func isMissing(err error) bool { return errors.Is(err, fs.ErrNotExist) }

// place puts a file at name so that a crash at any moment leaves the old file or the whole new one: it writes under
// another name, syncs, renames and syncs the directory. ready is asked last before the rename; its error is returned as
// it is. On any error before the rename the new file is removed.
func (d *Dir) place(g elastic.Generation, name string, write func(writeFile) error, ready func() error) error {
	dir, final := path.Split(name)
	dir = strings.TrimSuffix(dir, "/")
	temp := dir + "/" + tempName(g, final, rand.Uint64())
	if err := d.writeTemp(temp, write); err != nil {
		return writeError(d.full(name), err)
	}
	if err := ready(); err != nil {
		_ = d.files.remove(temp)
		return err
	}
	if err := d.files.rename(temp, name); err != nil {
		_ = d.files.remove(temp)
		return writeError(d.full(name), err)
	}
	if err := d.files.syncDir(dir); err != nil {
		return writeError(d.full(dir), err)
	}
	return nil
}

// writeTemp writes and syncs a new file, and removes it on error.
func (d *Dir) writeTemp(temp string, write func(writeFile) error) (err error) {
	f, err := d.files.create(temp)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = d.files.remove(temp)
		}
	}()
	if err := write(f); err != nil {
		_ = f.Close()
		return err
	}
	if err := f.Sync(); err != nil {
		_ = f.Close()
		return err
	}
	return f.Close()
}

// placeBytes is place for a small file.
func (d *Dir) placeBytes(g elastic.Generation, name string, b []byte) error {
	return d.place(g, name, func(f writeFile) error {
		_, err := f.Write(b)
		return err
	}, func() error { return nil })
}

// removeOlderTemps removes what crashed writers of lower generations left in dir.
func (d *Dir) removeOlderTemps(dir string, g elastic.Generation) error {
	return d.removeIf(dir, func(name string) bool {
		left, ok := tempGeneration(name)
		return ok && left < g
	})
}

// removeIf removes the files of dir whose names are chosen. A file that vanishes meanwhile is no error.
func (d *Dir) removeIf(dir string, chosen func(name string) bool) error {
	entries, err := d.files.readDir(dir)
	if err != nil {
		return writeError(d.full(dir), err)
	}
	var errs []error
	for _, e := range entries {
		if e.dir || !chosen(e.name) {
			continue
		}
		if err := d.files.remove(dir + "/" + e.name); err != nil && !isMissing(err) {
			errs = append(errs, writeError(d.full(dir+"/"+e.name), err))
		}
	}
	return errors.Join(errs...)
}
