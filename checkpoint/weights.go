package checkpoint

import (
	"context"
	"fmt"
	"io"
	"math"
	"strings"

	"github.com/farandole-ml/farandole/kernels"
)

// Weight is a tensor of a model, and how the files of other programs have it.
type Weight struct {
	Tensor
	// Transposed says that files have the matrix [rows, columns] as [columns, rows].
	Transposed bool
}

// dtypes are the types that weights are read and written as, with the names that people use.
var dtypes = map[string]string{"f32": "F32", "bf16": "BF16", "f16": "F16"}

// DTypes are the types that weights can be written as: all but the first round.
func DTypes() []string { return []string{"f32", "bf16", "f16"} }

// fileShape is the weight's shape in a file.
func (w Weight) fileShape() []int64 {
	shape := shapeOf(w.Tensor)
	if w.Transposed {
		shape[0], shape[1] = shape[1], shape[0]
	}
	return shape
}

// checkWeights is specsOf, and refuses to transpose what is no matrix.
func checkWeights(weights []Weight, withData bool) error {
	tensors := make([]Tensor, len(weights))
	for i, w := range weights {
		if tensors[i] = w.Tensor; w.Transposed && len(w.Shape) != 2 {
			return fmt.Errorf("tensor %q of shape %v cannot be transposed", w.Name, w.Shape)
		}
	}
	_, err := specsOf(tensors, withData)
	return err
}

// readWeight fills w from the bytes of e, which begin at off in r.
func readWeight(ctx context.Context, r io.ReaderAt, off int64, e entry, w Weight) error {
	into := w.Data
	if w.Transposed {
		into = make([]float32, len(w.Data))
	}
	if err := readFloats(ctx, r, off, e.dtype, into); err != nil {
		return err
	}
	if w.Transposed {
		transpose(w.Data, into, w.Shape[1], w.Shape[0])
	}
	return nil
}

// readFloats fills x from values of dtype at off.
func readFloats(ctx context.Context, r io.ReaderAt, off int64, dtype string, x []float32) error {
	width := sizeOf[dtype]
	var scratch []byte
	if dtype != "F32" {
		scratch = make([]byte, min(int64(len(x))*width, chunk))
	}
	for len(x) > 0 {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		part := x[:min(int64(len(x)), chunk/width)]
		b := memory(part)
		if dtype != "F32" {
			b = scratch[:int64(len(part))*width]
		}
		if err := readFull(r, b, off); err != nil {
			return err
		}
		if bigEndian {
			swap(b, int(width))
		}
		switch dtype {
		case "BF16":
			kernels.DecodeBF16(part, b)
		case "F16":
			kernels.DecodeF16(part, b)
		}
		x, off = x[len(part):], off+int64(len(b))
	}
	return nil
}

// writeWeight appends w's values to f as dtype, in the file's layout.
func writeWeight(ctx context.Context, f io.Writer, dtype string, w Weight) error {
	x := w.Data
	if w.Transposed {
		x = make([]float32, len(w.Data))
		transpose(x, w.Data, w.Shape[0], w.Shape[1])
	}
	width := sizeOf[dtype]
	scratch := make([]byte, min(int64(len(x))*width, chunk))
	for len(x) > 0 {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		part := x[:min(int64(len(x)), chunk/width)]
		b := scratch[:int64(len(part))*width]
		switch dtype {
		case "F32":
			copy(b, memory(part))
		case "BF16":
			kernels.EncodeBF16(b, part)
		case "F16":
			if err := fitsF16(w.Name, part); err != nil {
				return err
			}
			kernels.EncodeF16(b, part)
		}
		if bigEndian {
			swap(b, int(width))
		}
		if _, err := f.Write(b); err != nil {
			return err
		}
		x = x[len(part):]
	}
	return nil
}

// fitsF16 refuses finite values that would become infinite.
func fitsF16(name string, x []float32) error {
	const most = 65520 // from here on float16 rounds to infinity
	for _, v := range x {
		if a := math.Abs(float64(v)); a >= most && !math.IsInf(a, 1) {
			return fmt.Errorf("tensor %q has the value %g, too large for f16: write it as bf16 or f32", name, v)
		}
	}
	return nil
}

// transpose writes the matrix src [rows, columns] to dst as [columns, rows], a square at a time for the cache's sake.
func transpose(dst, src []float32, rows, columns int) {
	const side = 32
	for i0 := 0; i0 < rows; i0 += side {
		for j0 := 0; j0 < columns; j0 += side {
			for i := i0; i < min(i0+side, rows); i++ {
				for j := j0; j < min(j0+side, columns); j++ {
					dst[j*rows+i] = src[i*columns+j]
				}
			}
		}
	}
}

// dtypeNamed is the file's name for a type of DTypes.
func dtypeNamed(name string) (string, error) {
	dtype, ok := dtypes[name]
	if !ok {
		return "", fmt.Errorf("weights cannot be written as %q: choose one of %s", name, strings.Join(DTypes(), ", "))
	}
	return dtype, nil
}
