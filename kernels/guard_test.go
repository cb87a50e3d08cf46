package kernels_test

import (
	"math/rand/v2"
	"slices"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"

	"github.com/farandole-ml/farandole/kernels"
	"github.com/farandole-ml/farandole/kernels/kernelstest"
)

// guardedBytes is the largest argument of the problems below.
const guardedBytes = 4 << 20

// TestOperationsStayInside would crash: the arguments of every operation end where a page begins that must not be touched, then begin where
// one ends. What kernelstest's guards see is only what is written.
func TestOperationsStayInside(t *testing.T) {
	guards := newGuarded(t, 16, guardedBytes)
	seeds := uint64(12)
	if testing.Short() {
		seeds = 3
	}
	check := func(d, reference kernels.Device) {
		for _, g := range kernelstest.Generators {
			for seed := range seeds {
				p := g.Make(rand.New(rand.NewPCG(seed, 11)), 40)
				want := p.Run(t, reference)
				for _, atEnd := range []bool{true, false} {
					got := runGuarded(t, d, p, guards, atEnd)
					for i, b := range p.Buffers {
						if b.Written && b.Tolerance != 0 {
							require.Equal(t, raw(want[i]...), raw(got[i]...), "%s: %s on %s", p.Name, b.Name, d.Name())
						}
					}
				}
			}
		}
	}
	for _, isa := range isas() {
		if isa == "go" {
			continue // the language checks
		}
		check(newCPU(t, isa, 2), kernels.NewReference())
		for class := range classesBF16 {
			check(newBF16(t, class, isa, 2), plainBF16(t, class))
			d := newBF16(t, class, isa, 2)
			kernels.EmulateProducts(d)
			check(d, plainBF16(t, class))
		}
	}
}

// runGuarded gives what the buffers hold after the problem's call.
func runGuarded(t *testing.T, d kernels.Device, p kernelstest.Problem, guards *guarded, atEnd bool) (results [][]float32) {
	t.Helper()
	place := func(i, bytes int) unsafe.Pointer {
		require.LessOrEqual(t, bytes, guardedBytes, p.Name)
		if bytes == 0 {
			return nil
		}
		if atEnd {
			return unsafe.Pointer(unsafe.SliceData(guards.take(i, bytes)))
		}
		return unsafe.Pointer(unsafe.SliceData(guards.behind(i, bytes)))
	}
	buffers := make([]kernels.Buffer, len(p.Buffers))
	for i, b := range p.Buffers {
		x := unsafe.Slice((*float32)(place(1+i, 4*len(b.Data))), len(b.Data))
		copy(x, b.Data)
		buffers[i], results = kernels.BufferOn(d, x), append(results, x)
	}
	var ids kernels.Ints
	if p.IDs != nil {
		x := unsafe.Slice((*int32)(place(1+len(buffers), 4*len(p.IDs))), len(p.IDs))
		copy(x, p.IDs)
		ids = kernels.IntsOn(d, x)
	}
	p.Call(d, buffers, ids)
	for i, x := range results {
		results[i] = slices.Clone(x)
	}
	return results
}
