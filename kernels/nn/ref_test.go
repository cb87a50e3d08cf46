package nn_test

import (
	"math"

	"github.com/farandole-ml/farandole/kernels/nn"
)

// tensors64 is a model's parameters in float64, by name.
type tensors64 map[string][]float64

// gpt64 is the mean loss of a GPT, in float64 and with plain loops: the oracle of the gradient tests.
// It shares no code with the package.
func gpt64(cfg nn.GPTConfig, p tensors64, b nn.Batch) float64 {
	c, total := cfg.Width, 0.0
	for row := range b.Rows {
		x := make([][]float64, b.Seq)
		for t := range x {
			x[t] = make([]float64, c)
			tok := int(b.Tokens[row*b.Seq+t])
			for i := range c {
				x[t][i] = p["wte.weight"][tok*c+i] + p["wpe.weight"][t*c+i]
			}
		}
		for l := range cfg.Layers {
			h := "h." + string(rune('0'+l)) + "."
			var qkv [][]float64
			for t := range x {
				n := norm64(x[t], p[h+"ln_1.weight"], p[h+"ln_1.bias"])
				qkv = append(qkv, linear64(n, p[h+"attn.c_attn.weight"], p[h+"attn.c_attn.bias"]))
			}
			for t, a := range attention64(qkv, cfg.Heads) {
				addTo(x[t], linear64(a, p[h+"attn.c_proj.weight"], p[h+"attn.c_proj.bias"]))
			}
			for t := range x {
				n := norm64(x[t], p[h+"ln_2.weight"], p[h+"ln_2.bias"])
				f := linear64(n, p[h+"mlp.c_fc.weight"], p[h+"mlp.c_fc.bias"])
				for i, v := range f {
					f[i] = 0.5 * v * (1 + math.Tanh(math.Sqrt(2/math.Pi)*(v+0.044715*v*v*v)))
				}
				addTo(x[t], linear64(f, p[h+"mlp.c_proj.weight"], p[h+"mlp.c_proj.bias"]))
			}
		}
		for t := range x {
			n := norm64(x[t], p["ln_f.weight"], p["ln_f.bias"])
			total += loss64(linear64(n, p["wte.weight"], nil), int(b.Targets[row*b.Seq+t]))
		}
	}
	return total / float64(b.Rows*b.Seq)
}

// mlp64 is the mean loss of an MLP in float64.
func mlp64(widths []int, p tensors64, b nn.Batch) float64 {
	total := 0.0
	for row := range b.Rows {
		x := make([]float64, widths[0])
		for i := range x {
			x[i] = float64(b.Inputs[row*widths[0]+i])
		}
		for l := range len(widths) - 1 {
			if l > 0 {
				for i := range x {
					x[i] = max(x[i], 0)
				}
			}
			h := "fc." + string(rune('0'+l)) + "."
			x = linear64(x, p[h+"weight"], p[h+"bias"])
		}
		total += loss64(x, int(b.Targets[row]))
	}
	return total / float64(b.Rows)
}

// cnn64 is the mean loss of a CNN in float64.
func cnn64(cfg nn.CNNConfig, p tensors64, b nn.Batch) float64 {
	total, size := 0.0, cfg.Height*cfg.Width*cfg.Channels
	for row := range b.Rows {
		x := make([]float64, size)
		for i := range x {
			x[i] = float64(b.Inputs[row*size+i])
		}
		height, width, channels := cfg.Height, cfg.Width, cfg.Channels
		for l, filters := range cfg.Filters {
			x = stage64(x, height, width, channels, filters, p, string(rune('0'+l)))
			height, width, channels = height/2, width/2, filters
		}
		total += loss64(linear64(x, p["fc.weight"], p["fc.bias"]), int(b.Targets[row]))
	}
	return total / float64(b.Rows)
}

// stage64 convolves, normalises, rectifies and pools one image, in that order.
func stage64(x []float64, height, width, channels, filters int, p tensors64, l string) []float64 {
	out := make([]float64, height/2*(width/2)*filters)
	for y := range height / 2 * 2 {
		for column := range width / 2 * 2 {
			var under []float64 // 3×3 pixels around this one
			for i := range 9 {
				for c := range channels {
					v, iy, ix := 0.0, y+i/3-1, column+i%3-1
					if iy >= 0 && iy < height && ix >= 0 && ix < width {
						v = x[(iy*width+ix)*channels+c]
					}
					under = append(under, v)
				}
			}
			pixel := norm64(linear64(under, p["conv."+l+".weight"], p["conv."+l+".bias"]), p["norm."+l+".weight"], p["norm."+l+".bias"])
			for f, v := range pixel {
				at := (y/2*(width/2)+column/2)*filters + f
				out[at] = max(out[at], v)
			}
		}
	}
	return out
}

func addTo(dst, x []float64) {
	for i := range dst {
		dst[i] += x[i]
	}
}

func linear64(x, w, bias []float64) []float64 {
	out := make([]float64, len(w)/len(x))
	for o := range out {
		for i := range x {
			out[o] += w[o*len(x)+i] * x[i]
		}
		if bias != nil {
			out[o] += bias[o]
		}
	}
	return out
}

func norm64(x, gamma, beta []float64) []float64 {
	mean, variance := 0.0, 0.0
	for _, v := range x {
		mean += v / float64(len(x))
	}
	for _, v := range x {
		variance += (v - mean) * (v - mean) / float64(len(x))
	}
	out := make([]float64, len(x))
	for i, v := range x {
		out[i] = (v-mean)/math.Sqrt(variance+1e-5)*gamma[i] + beta[i]
	}
	return out
}

func attention64(qkv [][]float64, heads int) [][]float64 {
	c := len(qkv[0]) / 3
	hs := c / heads
	out := make([][]float64, len(qkv))
	for t := range out {
		out[t] = make([]float64, c)
		for h := range heads {
			weights, sum := make([]float64, t+1), 0.0
			for u := range weights {
				for i := range hs {
					weights[u] += qkv[t][h*hs+i] * qkv[u][c+h*hs+i] / math.Sqrt(float64(hs))
				}
				weights[u] = math.Exp(weights[u])
				sum += weights[u]
			}
			for u, w := range weights {
				for i := range hs {
					out[t][h*hs+i] += w / sum * qkv[u][2*c+h*hs+i]
				}
			}
		}
	}
	return out
}

// loss64 is -log softmax(x)[target], or 0 for a negative target.
func loss64(x []float64, target int) float64 {
	if target < 0 {
		return 0
	}
	sum := 0.0
	for _, v := range x {
		sum += math.Exp(v)
	}
	return math.Log(sum) - x[target]
}
