package kernelstest

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/farandole-ml/farandole/kernels"
)

// checkGradient compares grad with central differences of Σ weight·f(x) over x, in float64.
func checkGradient(t *testing.T, name string, x, weight, grad []float64, f func() []float64) {
	t.Helper()
	require.Len(t, grad, len(x), name)
	const h = 1e-5
	loss := func() (s float64) {
		for i, v := range f() {
			s += weight[i] * v
		}
		return s
	}
	for i, v := range x {
		x[i] = v + h
		up := loss()
		x[i] = v - h
		down := loss()
		x[i] = v
		require.InDelta(t, (up-down)/(2*h), grad[i], 1e-6*(1+math.Abs(grad[i])), "%s[%d]", name, i)
	}
}

// TestGradients checks the float64 backward operations, which the devices are checked against, by differences of the
// forward ones.
func TestGradients(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	values := func(n int) []float64 { return widen(normal(r, n, 1)) }

	t.Run("Linear", func(t *testing.T) {
		const m, n, k = 3, 4, 5
		x, w, bias, dout := values(m*k), values(n*k), values(n), values(m*n)
		dx, dw, dbias := LinearBackward64(dout, x, w, m, n, k)
		f := func() []float64 { return Linear64(x, w, bias, m, n, k) }
		checkGradient(t, "dx", x, dout, dx, f)
		checkGradient(t, "dw", w, dout, dw, f)
		checkGradient(t, "dbias", bias, dout, dbias, f)
	})
	t.Run("Embed", func(t *testing.T) {
		const b, n, c, vocab = 2, 3, 4, 5
		wte, wpe, dout := values(vocab*c), values(n*c), values(b*n*c)
		tokens := below(r, b*n, vocab)
		dwte, dwpe := EmbedBackward64(dout, tokens, n, c, len(wte), len(wpe))
		f := func() []float64 { return Embed64(wte, wpe, tokens, n, c) }
		checkGradient(t, "dwte", wte, dout, dwte, f)
		checkGradient(t, "dwpe", wpe, dout, dwpe, f)
	})
	t.Run("LayerNorm", func(t *testing.T) {
		const rows, c = 3, 7
		x, gamma, beta, dout := values(rows*c), values(c), values(c), values(rows*c)
		_, mean, rstd := LayerNorm64(x, gamma, beta, rows, c)
		dx, dgamma, dbeta := LayerNormBackward64(dout, x, gamma, mean, rstd, rows, c)
		f := func() []float64 {
			out, _, _ := LayerNorm64(x, gamma, beta, rows, c)
			return out
		}
		checkGradient(t, "dx", x, dout, dx, f)
		checkGradient(t, "dgamma", gamma, dout, dgamma, f)
		checkGradient(t, "dbeta", beta, dout, dbeta, f)
	})
	t.Run("Attention", func(t *testing.T) {
		const b, n, heads, hs = 2, 5, 2, 3
		qkv, dout := values(b*n*3*heads*hs), values(b*n*heads*hs)
		_, att := Attention64(qkv, b, n, heads, hs)
		checkGradient(t, "dqkv", qkv, dout, AttentionBackward64(dout, qkv, att, b, n, heads, hs), func() []float64 {
			out, _ := Attention64(qkv, b, n, heads, hs)
			return out
		})
	})
	t.Run("GELU", func(t *testing.T) {
		x, one := values(50), []float64{1}
		for i := range x {
			checkGradient(t, "dx", x[i:i+1], one, []float64{GELUSlope64(x[i])}, func() []float64 {
				return []float64{GELU64(x[i])}
			})
		}
	})
	t.Run("Conv", func(t *testing.T) {
		const filters = 3
		for _, g := range []kernels.Window{window(2, 4, 5, 2, 3, 2, 1, 1), window(1, 6, 5, 3, 2, 3, 2, 0), window(2, 3, 3, 2, 1, 1, 2, 0)} {
			nx, n := sizes(g, filters)
			x, w, bias, dout := values(nx), values(filters*g.Rows*g.Columns*g.Channels), values(filters), values(n)
			dx, dw, dbias := ConvBackward64(dout, x, w, filters, g)
			f := func() []float64 { return Conv64(x, w, bias, filters, g) }
			checkGradient(t, "dx", x, dout, dx, f)
			checkGradient(t, "dw", w, dout, dw, f)
			checkGradient(t, "dbias", bias, dout, dbias, f)
		}
	})
	t.Run("MaxPool", func(t *testing.T) {
		for _, g := range []kernels.Window{window(2, 5, 6, 2, 2, 2, 2, 0), window(1, 5, 4, 3, 3, 2, 1, 1)} {
			nx, n := sizes(g, g.Channels)
			x, dout := values(nx), values(n)
			checkGradient(t, "dx", x, dout, MaxPoolBackward64(dout, x, g), func() []float64 {
				out, _ := MaxPool64(x, g)
				return out
			})
		}
	})
	t.Run("CrossEntropy", func(t *testing.T) {
		const rows, v = 4, 6
		x, targets, ones := values(rows*v), below(r, rows, v), []float64{1, 1, 1, 1}
		targets[2] = -1
		_, dx := CrossEntropy64(x, targets, v, 1)
		checkGradient(t, "dlogits", x, ones, dx, func() []float64 {
			losses, _ := CrossEntropy64(x, targets, v, 1)
			return losses
		})
	})
}
