package kernelstest

import (
	"fmt"
	"math"
	"math/rand/v2"

	"github.com/farandole-ml/farandole/kernels"
)

// Generators make a random problem of each operation. size bounds the dimensions: about size³ multiplications at most.
var Generators = []struct {
	Name string
	Make func(r *rand.Rand, size int) Problem
}{
	{"Add", add}, {"AddRounded", addRounded}, {"Scale", scale}, {"Copy", copies}, {"Zero", zero},
	{"Linear", linear}, {"LinearBackward", linearBackward},
	{"Embed", embed}, {"EmbedBackward", embedBackward},
	{"LayerNorm", layerNorm}, {"ResidualLayerNorm", residualLayerNorm}, {"LayerNormBackward", layerNormBackward},
	{"Attention", attention}, {"AttentionBackward", attentionBackward},
	{"GELU", gelu}, {"GELUBackward", geluBackward}, {"ReLU", relu}, {"ReLUBackward", reluBackward},
	{"Conv", conv}, {"ConvBackward", convBackward}, {"MaxPool", maxPool}, {"MaxPoolBackward", maxPoolBackward},
	{"CrossEntropy", crossEntropy}, {"Sum", sum}, {"SquareSum", squareSum}, {"AdamW", adamW},
}

// dim is a dimension up to size: often 1, a small number, one beside a power of two, or anything.
func dim(r *rand.Rand, size int) int {
	var n int
	switch r.IntN(5) {
	case 0:
		n = 1 + r.IntN(3)
	case 1:
		n = 1<<r.IntN(10) + r.IntN(3) - 1
	case 2:
		n = 16 * (1 + r.IntN(size/16+1))
	default:
		n = 1 + r.IntN(size)
	}
	return max(1, min(n, size))
}

// exact is the tolerance of an operation that rounds a few times; summed that of a sum of n products of about 1:
// the partial sums grow like √n and are rounded n times. One missing term would be far outside.
const exact = 3e-7

func summed(n int) float64 { return exact * (2 + 2*math.Sqrt(float64(n)) + float64(n)/4) }

func mapped(x []float64, f func(float64) float64) []float64 {
	y := make([]float64, len(x))
	for i, v := range x {
		y[i] = f(v)
	}
	return y
}

func plus(a, b []float64) []float64 {
	y := make([]float64, len(a))
	for i := range a {
		y[i] = a[i] + b[i]
	}
	return y
}

func elements(r *rand.Rand, size int) int { return dim(r, size*size) }

func add(r *rand.Rand, size int) Problem {
	n := elements(r, size)
	return Problem{
		Name:    fmt.Sprintf("Add n=%d", n),
		Buffers: []Argument{out("dst", n, exact), in("a", normal(r, n, 1)), in("b", normal(r, n, 1))},
		Call:    func(d kernels.Device, b []kernels.Buffer, _ kernels.Ints) { d.Add(b[0], b[1], b[2]) },
		Want:    func(in [][]float64) [][]float64 { return [][]float64{plus(in[1], in[2])} },
	}
}

// addRounded has terms that lie between two bfloat16, on ties too, and b missing at times.
func addRounded(r *rand.Rand, size int) Problem {
	n, alone := elements(r, size), r.IntN(3) == 0
	a, b := normal(r, n, 1), normal(r, n, 1)
	for i := range a {
		if i%2 == 0 {
			a[i] = math.Float32frombits(math.Float32bits(a[i])&^0xffff | 0x8000) // halfway
		}
	}
	rounded := func(x float32) float32 {
		var bytes [2]byte
		kernels.EncodeBF16(bytes[:], []float32{x})
		var y [1]float32
		kernels.DecodeBF16(y[:], bytes[:])
		return y[0]
	}
	return Problem{
		Name:    fmt.Sprintf("AddRounded n=%d alone=%t", n, alone),
		Buffers: []Argument{out("dst", n, 0), in("a", a), in("b", b)},
		Call: func(d kernels.Device, x []kernels.Buffer, _ kernels.Ints) {
			if alone {
				d.AddRounded(x[0], x[1], nil)
			} else {
				d.AddRounded(x[0], x[1], x[2])
			}
		},
		Want: func([][]float64) [][]float64 {
			want := make([]float64, n)
			for i := range want {
				x := rounded(a[i])
				if !alone {
					x = rounded(x + rounded(b[i]))
				}
				want[i] = float64(x)
			}
			return [][]float64{want}
		},
	}
}

func scale(r *rand.Rand, size int) Problem {
	n, s := elements(r, size), float32(r.NormFloat64())
	return Problem{
		Name:    fmt.Sprintf("Scale n=%d", n),
		Buffers: []Argument{inout("x", normal(r, n, 1), exact)},
		Call:    func(d kernels.Device, b []kernels.Buffer, _ kernels.Ints) { d.Scale(b[0], s) },
		Want: func(in [][]float64) [][]float64 {
			return [][]float64{mapped(in[0], func(v float64) float64 { return v * float64(s) })}
		},
	}
}

func copies(r *rand.Rand, size int) Problem {
	n := elements(r, size)
	return Problem{
		Name:    fmt.Sprintf("Copy n=%d", n),
		Buffers: []Argument{out("dst", n, exact), in("src", normal(r, n, 1))},
		Call:    func(d kernels.Device, b []kernels.Buffer, _ kernels.Ints) { d.Copy(b[0], b[1]) },
		Want:    func(in [][]float64) [][]float64 { return [][]float64{in[1]} },
	}
}

func zero(r *rand.Rand, size int) Problem {
	n := elements(r, size)
	return Problem{
		Name:    fmt.Sprintf("Zero n=%d", n),
		Buffers: []Argument{out("x", n, exact)},
		Call:    func(d kernels.Device, b []kernels.Buffer, _ kernels.Ints) { d.Zero(b[0]) },
		Want:    func(in [][]float64) [][]float64 { return [][]float64{make([]float64, n)} },
	}
}

func activation(name string, f func(float64) float64, call func(d kernels.Device, out, x kernels.Buffer)) func(*rand.Rand, int) Problem {
	return func(r *rand.Rand, size int) Problem {
		n := elements(r, size)
		return Problem{
			Name:    fmt.Sprintf("%s n=%d", name, n),
			Buffers: []Argument{out("out", n, 4*exact), in("x", normal(r, n, 3))},
			Call:    func(d kernels.Device, b []kernels.Buffer, _ kernels.Ints) { call(d, b[0], b[1]) },
			Want:    func(in [][]float64) [][]float64 { return [][]float64{mapped(in[1], f)} },
		}
	}
}

func slope(name string, f func(float64) float64, call func(d kernels.Device, dx, dout, x kernels.Buffer)) func(*rand.Rand, int) Problem {
	return func(r *rand.Rand, size int) Problem {
		n := elements(r, size)
		return Problem{
			Name:    fmt.Sprintf("%s n=%d", name, n),
			Buffers: []Argument{out("dx", n, 16*exact), in("dout", normal(r, n, 1)), in("x", normal(r, n, 3))},
			Call:    func(d kernels.Device, b []kernels.Buffer, _ kernels.Ints) { call(d, b[0], b[1], b[2]) },
			Want: func(in [][]float64) [][]float64 {
				y := mapped(in[2], f)
				for i := range y {
					y[i] *= in[1][i]
				}
				return [][]float64{y}
			},
		}
	}
}

var (
	gelu         = activation("GELU", GELU64, kernels.Device.GELU)
	relu         = activation("ReLU", func(x float64) float64 { return max(x, 0) }, kernels.Device.ReLU)
	reluBackward = slope("ReLUBackward", func(x float64) float64 {
		if x > 0 {
			return 1
		}
		return 0
	}, kernels.Device.ReLUBackward)
)

func geluBackward(r *rand.Rand, size int) Problem {
	p := slope("GELUBackward", GELUSlope64, func(d kernels.Device, dx, dout, x kernels.Buffer) { d.GELUBackward(dx, nil, dout, x) })(r, size)
	if r.IntN(2) == 0 {
		return p
	}
	only := p.Want
	p.Name += " and GELU"
	p.Buffers = append(p.Buffers, out("out", len(p.Buffers[0].Data), 4*exact))
	p.Call = func(d kernels.Device, b []kernels.Buffer, _ kernels.Ints) { d.GELUBackward(b[0], b[3], b[1], b[2]) }
	p.Want = func(in [][]float64) [][]float64 { return append(only(in), mapped(in[2], GELU64)) }
	return p
}

func reduction(name string, f func(float64) float64, tolerance func(n int) float64,
	call func(d kernels.Device, out, x kernels.Buffer)) func(*rand.Rand, int) Problem {
	return func(r *rand.Rand, size int) Problem {
		n := elements(r, size*3)
		return Problem{
			Name:    fmt.Sprintf("%s n=%d", name, n),
			Buffers: []Argument{out("out", 1, tolerance(n)), in("x", normal(r, n, 1))},
			Call:    func(d kernels.Device, b []kernels.Buffer, _ kernels.Ints) { call(d, b[0], b[1]) },
			Want: func(in [][]float64) [][]float64 {
				s := 0.0
				for _, v := range in[1] {
					s += f(v)
				}
				return [][]float64{{s}}
			},
		}
	}
}

var (
	sum       = reduction("Sum", func(x float64) float64 { return x }, summed, kernels.Device.Sum)
	squareSum = reduction("SquareSum", func(x float64) float64 { return x * x },
		func(int) float64 { return 4 * exact }, kernels.Device.SquareSum)
)

func adamW(r *rand.Rand, size int) Problem {
	n := elements(r, size)
	a := kernels.AdamW{LR: 0.01, Beta1: 0.9, Beta2: 0.95, Eps: 1e-8, Decay: 0.1, Step: 1 + r.Int64N(1000)}
	gscale := float32(0.25)
	v := normal(r, n, 1)
	for i := range v {
		v[i] *= v[i]
	}
	return Problem{
		Name: fmt.Sprintf("AdamW n=%d step=%d", n, a.Step),
		Buffers: []Argument{inout("p", normal(r, n, 1), 4*exact), in("g", normal(r, n, 1)),
			inout("m", normal(r, n, 1), 4*exact), inout("v", v, 4*exact)},
		Call: func(d kernels.Device, b []kernels.Buffer, _ kernels.Ints) {
			d.AdamW(b[0], b[1], b[2], b[3], gscale, a)
		},
		Want: func(in [][]float64) [][]float64 {
			p, g, m, v := in[0], in[1], in[2], in[3]
			b1, b2 := float64(a.Beta1), float64(a.Beta2)
			for i := range p {
				h := g[i] * float64(gscale)
				m[i] = b1*m[i] + (1-b1)*h
				v[i] = b2*v[i] + (1-b2)*h*h
				mhat, vhat := m[i]/(1-math.Pow(b1, float64(a.Step))), v[i]/(1-math.Pow(b2, float64(a.Step)))
				p[i] -= float64(a.LR) * (mhat/(math.Sqrt(vhat)+float64(a.Eps)) + float64(a.Decay)*p[i])
			}
			return [][]float64{p, m, v}
		},
	}
}
