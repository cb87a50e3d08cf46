package data

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"go/build"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// MaxTextBytes bounds the text that is read into memory.
const MaxTextBytes = 4 << 30

// opticks is Isaac Newton's Opticks (1704) within a Go installation: 567 kB of English in the public domain.
const opticks = "src/testdata/Isaac.Newton-Opticks.txt"

// separator stands between two files of a folder. No file that counts as text has it.
const separator = 0

// DefaultText finds the text that comes with every Go installation.
func DefaultText(ctx context.Context) (string, error) {
	root := build.Default.GOROOT
	path := filepath.Join(root, opticks)
	if _, err := os.Stat(path); root != "" && err == nil {
		return path, nil
	}
	root, err := askGo(ctx, "env", "GOROOT")
	if err == nil {
		path = filepath.Join(root, opticks)
		if _, err = os.Stat(path); err == nil {
			return path, nil
		}
	}
	return "", mend(err, "the default text, %s of a Go installation, is not on this machine: pass --data with a text file or a folder", opticks)
}

// readText reads the file at path, or all text files under the folder at path, sorted by path and separated by a NUL. The
// last element may be a pattern of file names, as in "src/*.go", that applies to the whole tree. Files with a NUL count as
// binary; they, links, and folders that begin with a dot are skipped.
func readText(path string) ([]byte, error) {
	info, err := os.Stat(path)
	pattern := "*"
	if dir, last := filepath.Split(path); err != nil && strings.ContainsAny(last, "*?[") {
		if _, bad := filepath.Match(last, ""); bad != nil {
			return nil, mend(bad, "%q is no pattern of file names", last)
		}
		path, pattern = filepath.Clean(dir), last
		info, err = os.Stat(path)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, mend(err, "there is no file or folder %s: pass --data with a text file or a folder", path)
	case err != nil:
		return nil, mend(err, "the text at %s cannot be read: %v", path, err)
	case info.IsDir():
		return readTree(path, pattern)
	case !info.Mode().IsRegular():
		return nil, mend(nil, "%s is neither a regular file nor a folder", path)
	case info.Size() > MaxTextBytes:
		return nil, tooLarge(path)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, mend(err, "the text at %s cannot be read: %v", path, err)
	}
	if bytes.IndexByte(text, separator) >= 0 {
		return nil, mend(nil, "%s is a binary file: pass --data with a text file or a folder", path)
	}
	return text, nil
}

func tooLarge(path string) error {
	return mend(nil, "%s holds more than %d GiB of text: pass --data with a part of it", path, MaxTextBytes>>30)
}

// readTree reads the matching text files under root. fs.WalkDir's order is lexical, so equal on all machines.
func readTree(root, pattern string) ([]byte, error) {
	var text []byte
	seen := 0
	err := fs.WalkDir(os.DirFS(root), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() {
			if strings.HasPrefix(name, ".") && path != "." {
				return fs.SkipDir
			}
			return nil
		}
		if ok, _ := filepath.Match(pattern, name); !ok || !d.Type().IsRegular() {
			return nil
		}
		seen++
		info, err := d.Info()
		if err != nil {
			return err
		}
		if info.Size() > MaxTextBytes-int64(len(text)) {
			return tooLarge(root)
		}
		file, err := os.ReadFile(filepath.Join(root, path))
		if err != nil {
			return err
		}
		if len(file) == 0 || bytes.IndexByte(file, separator) >= 0 {
			return nil
		}
		if len(text) > 0 {
			text = append(text, separator)
		}
		text = append(text, file...)
		return nil
	})
	var input *InputError
	switch {
	case errors.As(err, &input):
		return nil, err
	case err != nil:
		return nil, mend(err, "the folder %s cannot be read: %v", root, err)
	case len(text) == 0:
		return nil, mend(ErrTooSmall, "no text in %s: of %d files that match %q all are empty or binary", root, seen, pattern)
	}
	return text, nil
}

// errText wraps what goes wrong after reading.
func errText(path string, err error) error { return fmt.Errorf("data: text %s: %w", path, err) }
