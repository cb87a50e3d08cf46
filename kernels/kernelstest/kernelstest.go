// Package kernelstest has the tests that every kernels.Device passes.
//
//	kernelstest.Run(t, newDevice)                 // right: against float64 formulas, and the contract of Device
//	kernelstest.EqualBits(t, want, got, seeds)    // of one numerics class: the same bits as another device
package kernelstest

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/farandole-ml/farandole/kernels"
)

// problemsEach is how many random problems of each operation Run checks.
const problemsEach = 12

// Run tests the devices that newDevice makes. newDevice ends the device itself, by t.Cleanup.
func Run(t *testing.T, newDevice func(t testing.TB) kernels.Device) {
	t.Run("accuracy", func(t *testing.T) {
		d := newDevice(t)
		for _, g := range Generators {
			t.Run(g.Name, func(t *testing.T) {
				for seed := range uint64(problemsEach) {
					g.Make(rand.New(rand.NewPCG(seed, 1)), 40).Check(t, d)
				}
			})
		}
	})
	t.Run("large", func(t *testing.T) {
		d := newDevice(t)
		for _, p := range large(random(1)) {
			p.Check(t, d)
		}
	})
	t.Run("contract", func(t *testing.T) { contract(t, newDevice) })
	t.Run("non-finite values", func(t *testing.T) { nonFinite(t, newDevice(t)) })
}

// EqualBits checks that both devices give the same bits for a few large problems, and for one random problem of each operation
// and seed, with dimensions up to size. Every other seed's values have zeros, subnormal, huge, infinite and NaN values among them.
func EqualBits(t *testing.T, want, got kernels.Device, size int, seeds ...uint64) {
	t.Helper()
	for _, p := range large(random(2)) {
		EqualBitsOf(t, want, got, p, 2)
	}
	for _, g := range Generators {
		for _, seed := range seeds {
			EqualBitsOf(t, want, got, g.Make(random(seed), size), seed)
		}
	}
}

// EqualBitsOf is EqualBits for one problem. An odd seed puts special values among its arguments.
func EqualBitsOf(t testing.TB, want, got kernels.Device, p Problem, seed uint64) {
	t.Helper()
	if seed%2 == 1 {
		p.Name += fmt.Sprintf(" with special values of seed %d", seed)
		sprinkle(random(seed), p)
	}
	w, g := p.Run(t, want), p.Run(t, got)
	for i, b := range p.Buffers {
		if b.Written && b.Tolerance != 0 {
			same(t, w[i], g[i], "%s: %s on %s, against %s", p.Name, b.Name, got.Name(), want.Name())
		}
	}
}

func random(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 2)) }

// sprinkle replaces a few of the values that a problem reads by special ones, most often by finite ones.
func sprinkle(r *rand.Rand, p Problem) {
	finite := []float32{0, float32(math.Copysign(0, -1)), 1e-40, -1e-44, 1e-38, -1e-20, 3e19, -1e20, 100, -100, 88.7, -103.9}
	nonFinite := []float32{float32(math.Inf(1)), float32(math.Inf(-1)), float32(math.NaN())}
	for _, b := range p.Buffers {
		for range len(b.Data) / 20 {
			b.Data[r.IntN(len(b.Data))] = finite[r.IntN(len(finite))]
		}
		if r.IntN(4) == 0 {
			b.Data[r.IntN(len(b.Data))] = nonFinite[r.IntN(len(nonFinite))]
		}
	}
}
