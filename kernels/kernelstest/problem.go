package kernelstest

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/farandole-ml/farandole/kernels"
)

// Problem is one call of one operation with its arguments and, in float64, its results.
type Problem struct {
	// Name says operation and shape.
	Name string
	// Buffers are the float32 arguments in the order in which Call takes them.
	Buffers []Argument
	// IDs are the tokens or targets, where the operation has some.
	IDs  []int32
	Call func(d kernels.Device, b []kernels.Buffer, ids kernels.Ints)
	// Want gives the results for the values that the buffers had before, one slice for each buffer that changes.
	Want func(in [][]float64) [][]float64
	// Rounds says whether a class rounds the operation's factors to bfloat16: for a device of such a class Check rounds them
	// beforehand. Nil stands for none.
	Rounds func(class string) bool
}

// RoundedBy says whether a class rounds the operation's factors to bfloat16.
func (p Problem) RoundedBy(class string) bool { return p.Rounds != nil && p.Rounds(class) }

// Argument is one buffer of a Problem.
type Argument struct {
	Name string
	Data []float32
	// Written says that the operation writes the buffer. One that it only writes starts as NaN.
	Written bool
	// Tolerance bounds the error of a result: |got - want| ≤ Tolerance·(1 + |want|). Zero leaves the buffer unchecked
	// (scratch memory).
	Tolerance float64
	// Rounded is added to Tolerance for classes that round factors which are no arguments, as probabilities.
	Rounded float64
}

func in(name string, data []float32) Argument { return Argument{Name: name, Data: data} }

// out is overwritten: it starts as NaN, so that a value read or left over shows.
func out(name string, n int, tolerance float64) Argument {
	data := make([]float32, n)
	for i := range data {
		data[i] = float32(math.NaN())
	}
	return Argument{Name: name, Data: data, Written: true, Tolerance: tolerance}
}

func inout(name string, data []float32, tolerance float64) Argument {
	return Argument{Name: name, Data: data, Written: true, Tolerance: tolerance}
}

// guard is how many values before and behind every buffer must stay as they are: more than a vector register or
// a tile row holds.
const guard = 67

const guardValue = float32(-12345.678)

// Run computes the problem on a device and returns what the written buffers then hold, nil for the others. It fails the test when
// something outside the buffers, or a buffer that is only read, has changed.
func (p Problem) Run(t testing.TB, d kernels.Device) [][]float32 {
	t.Helper()
	total := guard
	for _, b := range p.Buffers {
		total += len(b.Data) + guard
	}
	before := slices.Repeat([]float32{guardValue}, total)
	arena, err := d.Alloc(total)
	require.NoError(t, err)
	buffers := make([]kernels.Buffer, len(p.Buffers))
	off := guard
	for i, b := range p.Buffers {
		copy(before[off:], b.Data)
		buffers[i] = arena.Slice(off, len(b.Data))
		off += len(b.Data) + guard
	}
	d.Upload(arena, before)
	var ids kernels.Ints
	if p.IDs != nil {
		ids, err = d.AllocInts(len(p.IDs))
		require.NoError(t, err)
		d.UploadInts(ids, p.IDs)
	}
	p.Call(d, buffers, ids)
	after := make([]float32, total)
	require.NoError(t, d.Download(after, arena))

	results := make([][]float32, len(p.Buffers))
	off = guard
	same(t, before[:off], after[:off], "%s: before the first buffer", p.Name)
	for i, b := range p.Buffers {
		end := off + len(b.Data)
		if b.Written {
			results[i] = after[off:end]
		} else {
			same(t, before[off:end], after[off:end], "%s: %s is only read", p.Name, b.Name)
		}
		same(t, before[end:end+guard], after[end:end+guard], "%s: behind %s", p.Name, b.Name)
		off = end + guard
	}
	return results
}

// Check runs the problem and compares its results with the float64 reference.
func (p Problem) Check(t testing.TB, d kernels.Device) {
	t.Helper()
	rounded := p.RoundedBy(d.Class())
	if rounded {
		p.round()
	}
	got := p.Run(t, d)
	args := make([][]float64, len(p.Buffers))
	for i, b := range p.Buffers {
		args[i] = widen(b.Data)
	}
	want := p.Want(args)
	for i, b := range p.Buffers {
		if !b.Written {
			continue
		}
		w := want[0]
		want = want[1:]
		if b.Tolerance == 0 {
			continue
		}
		tolerance := b.Tolerance
		if rounded {
			tolerance += b.Rounded
		}
		for j, v := range got[i] {
			e := math.Abs(float64(v) - w[j])
			if !(e <= tolerance*(1+math.Abs(w[j]))) {
				t.Fatalf("%s: %s[%d] is %v, want %v: off by %.3g, tolerance %.3g", p.Name, b.Name, j, v, w[j], e, tolerance)
			}
		}
	}
}

// round makes all values such as bfloat16 holds.
func (p Problem) round() {
	for _, b := range p.Buffers {
		short := make([]byte, 2*len(b.Data))
		kernels.EncodeBF16(short, b.Data)
		kernels.DecodeBF16(b.Data, short)
	}
}

// same fails the test unless both slices have the same bits, or NaN in the same places.
func same(t testing.TB, want, got []float32, format string, args ...any) {
	t.Helper()
	require.Len(t, got, len(want))
	for i, w := range want {
		g := got[i]
		if math.Float32bits(w) != math.Float32bits(g) && !(w != w && g != g) {
			t.Fatalf("%s: element %d is %v (%#08x), want %v (%#08x)", fmt.Sprintf(format, args...), i,
				g, math.Float32bits(g), w, math.Float32bits(w))
		}
	}
}

func widen(x []float32) []float64 {
	y := make([]float64, len(x))
	for i, v := range x {
		y[i] = float64(v)
	}
	return y
}

// normal gives n normally distributed values.
func normal(r *rand.Rand, n int, sigma float64) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(r.NormFloat64() * sigma)
	}
	return x
}

func below(r *rand.Rand, n, limit int) []int32 {
	x := make([]int32, n)
	for i := range x {
		x[i] = r.Int32N(int32(limit))
	}
	return x
}
