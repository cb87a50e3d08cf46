package kernels_test

import (
	"crypto/sha256"
	"encoding/hex"
	"hash"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/farandole-ml/farandole/kernels"
)

// pinned are the SHA-256 of what plain Go gives for hard values: the same on every architecture. The other instruction sets are
// compared with plain Go where they run.
var pinned = map[string]struct {
	sum   string
	write func(t *testing.T, h hash.Hash, rng *rand.Rand)
}{
	"reductions": {"4de904d3ce3d33e4d19fa5f097fc5a02d8450a13490ae846411269e5397aec89", func(_ *testing.T, h hash.Hash, rng *rand.Rand) {
		for _, d := range allTypes {
			for _, op := range allOps {
				for _, divisor := range []int{0, 3} {
					srcs := make([][]byte, 3)
					for i := range srcs {
						srcs[i] = make([]byte, 1000*d.Size())
						hardBits(rng, d, srcs[i])
					}
					dst := make([]byte, len(srcs[0]))
					(&kernels.Reduction{Type: d, Op: op, Divisor: divisor}).RunOn("go", false, [][]byte{dst}, srcs)
					h.Write(dst)
				}
			}
		}
	}},
	"conversions": {"867ce39a55a04e84c97ba67c3be0ae60e122f686bf3cabb0c8a47277bdb33017", func(_ *testing.T, h hash.Hash, rng *rand.Rand) {
		for _, tame := range []bool{false, true} {
			const n = 3000
			x, back := hardFloats(rng, n, tame), make([]float32, n)
			short, code := make([]byte, 2*n), make([]byte, kernels.Int8Bytes(n))
			kernels.EncodeBF16On("go", short, x)
			h.Write(short)
			kernels.DecodeBF16On("go", back, short)
			h.Write(raw(back...))
			kernels.EncodeInt8On("go", code, x)
			h.Write(code)
			kernels.DecodeInt8On("go", back, code)
			h.Write(raw(back...))
			kernels.ResidualOn("go", x, back)
			h.Write(raw(x...))
		}
	}},
	"products and GELU": {"de2c9d665710eddebfc9cc1772976b8bbb5d27e1679110a0745b5a0d8c11ac60", func(t *testing.T, h hash.Hash, rng *rand.Rand) {
		const m, n, k = 40, 50, 5
		for _, d := range []kernels.Device{newCPU(t, "go", 1), plainBF16(t, kernels.ClassBF16)} {
			for range 5 {
				writeNumbers(h, linearOn(t, d, hardFloats(rng, m*k, false), hardFloats(rng, n*k, false), m, n, k))
			}
		}
		x := hardFloats(rng, 5000, false)
		for i := range x {
			if i%2 == 0 {
				x[i] = float32(math.Ldexp(rng.Float64()-0.5, rng.IntN(8)))
			}
		}
		d := kernels.NewReference()
		var b [3]kernels.Buffer
		for i := range b {
			var err error
			b[i], err = d.Alloc(len(x))
			require.NoError(t, err)
		}
		d.Upload(b[0], x)
		d.GELU(b[1], b[0])
		d.GELUBackward(b[2], nil, b[0], b[0])
		for _, out := range b[1:] {
			require.NoError(t, d.Download(x, out))
			writeNumbers(h, x)
		}
	}},
}

// writeNumbers writes a canonical NaN for every NaN: which one an operation gives is not defined.
func writeNumbers(h hash.Hash, x []float32) {
	for _, v := range x {
		if v != v {
			v = math.Float32frombits(0x7fc00000)
		}
		h.Write(raw(v))
	}
}

func TestPinnedBits(t *testing.T) {
	for name, p := range pinned {
		h := sha256.New()
		p.write(t, h, rand.New(rand.NewPCG(8, 8)))
		require.Equal(t, p.sum, hex.EncodeToString(h.Sum(nil)), name)
	}
}
