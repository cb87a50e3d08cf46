//go:build cuda

package cuda

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/farandole-ml/farandole/kernels"
	"github.com/farandole-ml/farandole/kernels/kernelstest"
)

func newBF16(t testing.TB) *device {
	t.Helper()
	return opened(t, kernels.Config{Precision: kernels.ClassBF16})
}

func TestBF16Conformance(t *testing.T) {
	kernelstest.Run(t, func(t testing.TB) kernels.Device { return newBF16(t) })
}

// TestBF16RoundsOnlyFactors: all other operations have the bits of class f32.
func TestBF16RoundsOnlyFactors(t *testing.T) {
	want, got := kernels.NewReference(), newBF16(t)
	for _, g := range kernelstest.Generators {
		for seed := range uint64(2) {
			if p := g.Make(rand.New(rand.NewPCG(seed, 3)), 40); !p.RoundedBy(got.Class()) {
				kernelstest.EqualBitsOf(t, want, got, p, seed)
			}
		}
	}
}

func TestBF16Class(t *testing.T) {
	if !emulated(t, "GPUS=2", "CAPABILITY=1:90") {
		return
	}
	for rank, class := range []string{"bf16-mma-sm_80", "bf16-wgmma-sm_90"} {
		for precision, want := range map[string]string{"": "f32", "f32": "f32", "bf16": class} {
			d := opened(t, kernels.Config{Precision: precision, LocalRank: rank})
			require.Equal(t, want, d.Class())
			require.Equal(t, precision == "bf16", kernels.RoundsFactors(d.Class()))
		}
	}
	_, err := kernels.Open("cuda", kernels.Config{Precision: "fp8"})
	require.EqualError(t, err, `device cuda: precision "fp8": use f32 or bf16`)
}

func TestAttending(t *testing.T) {
	plain, rounded := newDevice(t), newBF16(t)
	for hs, want := range map[int]kernel{1: kAttentionBF16Narrow, 64: kAttentionBF16Narrow, 65: kAttentionBF16Wide, 128: kAttentionBF16Wide, 129: kAttention} {
		require.Equal(t, want, rounded.attending(hs).forward, hs)
		require.Equal(t, want != kAttention, kernels.RoundsAttention(rounded.Class(), hs), hs)
		require.Equal(t, kAttention, plain.attending(hs).forward, hs)
		require.False(t, kernels.RoundsAttention(plain.Class(), hs), hs)
	}
	require.False(t, kernels.RoundsAttention(kernels.ClassBF16, 64), "a CPU rounds the factors of linear layers alone")
}

func TestSideBySide(t *testing.T) {
	for name, c := range map[string]struct{ all, tiles, processors, room, want int }{
		"one block":            {1, 3, 100, 100, 1},
		"tiles enough":         {8, 264, 132, 100, 1},
		"no room":              {8, 18, 132, 0, 1},
		"a few at a time":      {8, 66, 132, 100, 2},
		"as many as there are": {8, 10, 132, 100, 8},
		"as many as have room": {8, 10, 132, 5, 4},
		"two waves at once":    {6, 88, 132, 100, 3},
		"very many":            {1000, 1, 4, 1 << 20, 4},
	} {
		require.Equal(t, c.want, sideBySide(c.all, c.tiles, c.processors, c.room), name)
	}
}
