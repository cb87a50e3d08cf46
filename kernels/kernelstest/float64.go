package kernelstest

import "math"

// The operations in float64 by their textbook formulas, with nothing of the canonical arithmetic in them. Results are
// returned; gradients that an operation adds to something are returned alone. A nil slice is an absent argument.

// Linear64 is x[m,k]·w[n,k]ᵀ + bias[n].
func Linear64(x, w, bias []float64, m, n, k int) []float64 {
	out := make([]float64, m*n)
	for i := range m {
		for j := range n {
			for e := range k {
				out[i*n+j] += x[i*k+e] * w[j*k+e]
			}
			if bias != nil {
				out[i*n+j] += bias[j]
			}
		}
	}
	return out
}

// LinearBackward64 gives the gradients of Linear64.
func LinearBackward64(dout, x, w []float64, m, n, k int) (dx, dw, dbias []float64) {
	dx, dw, dbias = make([]float64, m*k), make([]float64, n*k), make([]float64, n)
	for i := range m {
		for j := range n {
			d := dout[i*n+j]
			dbias[j] += d
			for e := range k {
				dx[i*k+e] += d * w[j*k+e]
				dw[j*k+e] += d * x[i*k+e]
			}
		}
	}
	return dx, dw, dbias
}

// Embed64 is wte[tokens[i]] + wpe[i mod t], rows of c.
func Embed64(wte, wpe []float64, tokens []int32, t, c int) []float64 {
	out := make([]float64, len(tokens)*c)
	for i, token := range tokens {
		for j := range c {
			out[i*c+j] = wte[int(token)*c+j]
			if wpe != nil {
				out[i*c+j] += wpe[i%t*c+j]
			}
		}
	}
	return out
}

// EmbedBackward64 gives the gradients of Embed64 for tables of the given lengths.
func EmbedBackward64(dout []float64, tokens []int32, t, c, wteLen, wpeLen int) (dwte, dwpe []float64) {
	dwte, dwpe = make([]float64, wteLen), make([]float64, wpeLen)
	for i, token := range tokens {
		for j := range c {
			dwte[int(token)*c+j] += dout[i*c+j]
			if wpeLen > 0 {
				dwpe[i%t*c+j] += dout[i*c+j]
			}
		}
	}
	return dwte, dwpe
}

// LayerNorm64 is (x-mean)/√(var+1e-5)·gamma + beta over rows of c.
func LayerNorm64(x, gamma, beta []float64, rows, c int) (out, mean, rstd []float64) {
	out, mean, rstd = make([]float64, rows*c), make([]float64, rows), make([]float64, rows)
	for i := range rows {
		row := x[i*c:][:c]
		variance := 0.0
		for _, v := range row {
			mean[i] += v / float64(c)
		}
		for _, v := range row {
			variance += (v - mean[i]) * (v - mean[i]) / float64(c)
		}
		rstd[i] = 1 / math.Sqrt(variance+1e-5)
		for j, v := range row {
			out[i*c+j] = (v-mean[i])*rstd[i]*gamma[j] + beta[j]
		}
	}
	return out, mean, rstd
}

// LayerNormBackward64 gives the gradients of LayerNorm64.
func LayerNormBackward64(dout, x, gamma, mean, rstd []float64, rows, c int) (dx, dgamma, dbeta []float64) {
	dx, dgamma, dbeta = make([]float64, rows*c), make([]float64, c), make([]float64, c)
	for i := range rows {
		var sum, dot float64
		for j := range c {
			n := (x[i*c+j] - mean[i]) * rstd[i]
			d := dout[i*c+j]
			dgamma[j] += d * n
			dbeta[j] += d
			sum += d * gamma[j]
			dot += d * gamma[j] * n
		}
		for j := range c {
			n := (x[i*c+j] - mean[i]) * rstd[i]
			dx[i*c+j] = (dout[i*c+j]*gamma[j] - sum/float64(c) - n*dot/float64(c)) * rstd[i]
		}
	}
	return dx, dgamma, dbeta
}

// attention64 has the layout of one batch and head of qkv[b,t,3,heads,hs].
type attention64 struct{ b, t, heads, hs int }

func (a attention64) qkv(part, batch, i, h, d int) int {
	return ((batch*a.t+i)*3+part)*a.heads*a.hs + h*a.hs + d
}

func (a attention64) out(batch, i, h, d int) int { return ((batch*a.t+i)*a.heads+h)*a.hs + d }

func (a attention64) att(batch, h, i, j int) int { return ((batch*a.heads+h)*a.t+i)*a.t + j }

func (a attention64) each(do func(batch, h int)) {
	for batch := range a.b {
		for h := range a.heads {
			do(batch, h)
		}
	}
}

// Attention64 is causal attention; att has the probabilities.
func Attention64(qkv []float64, b, t, heads, hs int) (out, att []float64) {
	a := attention64{b, t, heads, hs}
	out, att = make([]float64, b*t*heads*hs), make([]float64, b*heads*t*t)
	a.each(func(batch, h int) {
		for i := range t {
			sum := 0.0
			for j := range i + 1 {
				z := 0.0
				for d := range hs {
					z += qkv[a.qkv(0, batch, i, h, d)] * qkv[a.qkv(1, batch, j, h, d)]
				}
				e := math.Exp(z / math.Sqrt(float64(hs)))
				att[a.att(batch, h, i, j)] = e
				sum += e
			}
			for j := range i + 1 {
				att[a.att(batch, h, i, j)] /= sum
				for d := range hs {
					out[a.out(batch, i, h, d)] += att[a.att(batch, h, i, j)] * qkv[a.qkv(2, batch, j, h, d)]
				}
			}
		}
	})
	return out, att
}

// AttentionBackward64 gives the gradient of Attention64.
func AttentionBackward64(dout, qkv, att []float64, b, t, heads, hs int) []float64 {
	a := attention64{b, t, heads, hs}
	dqkv := make([]float64, len(qkv))
	scale := 1 / math.Sqrt(float64(hs))
	a.each(func(batch, h int) {
		for i := range t {
			dp := make([]float64, i+1)
			sum := 0.0
			for j := range i + 1 {
				p := att[a.att(batch, h, i, j)]
				for d := range hs {
					do := dout[a.out(batch, i, h, d)]
					dp[j] += do * qkv[a.qkv(2, batch, j, h, d)]
					dqkv[a.qkv(2, batch, j, h, d)] += do * p
				}
				sum += dp[j] * p
			}
			for j := range i + 1 {
				dz := (dp[j] - sum) * att[a.att(batch, h, i, j)] * scale
				for d := range hs {
					dqkv[a.qkv(0, batch, i, h, d)] += dz * qkv[a.qkv(1, batch, j, h, d)]
					dqkv[a.qkv(1, batch, j, h, d)] += dz * qkv[a.qkv(0, batch, i, h, d)]
				}
			}
		}
	})
	return dqkv
}

// GELU64 is ½x(1 + tanh(√(2/π)(x + 0.044715x³))).
func GELU64(x float64) float64 { return 0.5 * x * (1 + math.Tanh(geluArgument(x))) }

// GELUSlope64 is the derivative of GELU64.
func GELUSlope64(x float64) float64 {
	th := math.Tanh(geluArgument(x))
	return 0.5*(1+th) + 0.5*x*(1-th*th)*math.Sqrt(2/math.Pi)*(1+3*0.044715*x*x)
}

func geluArgument(x float64) float64 { return math.Sqrt(2/math.Pi) * (x + 0.044715*x*x*x) }

// CrossEntropy64 gives the losses and the gradients scale·(softmax - onehot); a negative target has neither.
func CrossEntropy64(logits []float64, targets []int32, v int, scale float64) (losses, dlogits []float64) {
	losses, dlogits = make([]float64, len(targets)), make([]float64, len(logits))
	for i, target := range targets {
		if target < 0 {
			continue
		}
		x := logits[i*v:][:v]
		largest, sum := x[0], 0.0
		for _, l := range x {
			largest = max(largest, l)
		}
		for _, l := range x {
			sum += math.Exp(l - largest)
		}
		losses[i] = math.Log(sum) - (x[target] - largest)
		for j, l := range x {
			p := math.Exp(l-largest) / sum
			if j == int(target) {
				p--
			}
			dlogits[i*v+j] = scale * p
		}
	}
	return losses, dlogits
}
