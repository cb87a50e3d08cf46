package kernelstest

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/farandole-ml/farandole/kernels"
)

// upload gives a buffer with the values x.
func upload(t testing.TB, d kernels.Device, x ...float32) kernels.Buffer {
	t.Helper()
	b, err := d.Alloc(len(x))
	require.NoError(t, err)
	d.Upload(b, x)
	return b
}

func uploadInts(t testing.TB, d kernels.Device, x ...int32) kernels.Ints {
	t.Helper()
	b, err := d.AllocInts(len(x))
	require.NoError(t, err)
	d.UploadInts(b, x)
	return b
}

func download(t testing.TB, d kernels.Device, b kernels.Buffer) []float32 {
	t.Helper()
	x := make([]float32, b.Len())
	require.NoError(t, d.Download(x, b))
	return x
}

func contract(t *testing.T, newDevice func(t testing.TB) kernels.Device) {
	t.Run("buffers", func(t *testing.T) { buffers(t, newDevice(t)) })
	t.Run("in place", func(t *testing.T) { inPlace(t, newDevice(t)) })
	t.Run("accumulates", func(t *testing.T) { accumulates(t, newDevice(t)) })
	t.Run("empty", func(t *testing.T) { empty(t, newDevice(t)) })
	t.Run("programmer's errors", func(t *testing.T) { misuse(t, newDevice(t), newDevice(t)) })
}

func buffers(t *testing.T, d kernels.Device) {
	require.NotEmpty(t, d.Name())
	require.NotEmpty(t, d.Class())
	b, err := d.Alloc(100)
	require.NoError(t, err)
	require.Equal(t, make([]float32, 100), download(t, d, b), "a new buffer is zeroed")
	s := b.Slice(10, 20).Slice(5, 3)
	d.Upload(s, []float32{1, 2, 3})
	require.Equal(t, 3, s.Len())
	require.Equal(t, []float32{0, 1, 2, 3, 0}, download(t, d, b.Slice(14, 5)), "a slice of a slice is the same memory")
	if h := d.Host(s); h != nil {
		require.NoError(t, d.Sync())
		require.Equal(t, []float32{1, 2, 3}, h)
		require.Equal(t, 3, cap(h), "appending to Host must not reach the neighbour")
	}
	_, err = d.Alloc(-1)
	require.Error(t, err)
	_, err = d.AllocInts(math.MaxInt)
	require.Error(t, err)
}

// inPlace checks that an element by element operation may write where it reads.
func inPlace(t *testing.T, d kernels.Device) {
	r := rand.New(rand.NewPCG(1, 2))
	x, y := normal(r, 1001, 1), normal(r, 1001, 1)
	fresh := func() (a, b, c kernels.Buffer) {
		return upload(t, d, x...), upload(t, d, y...), upload(t, d, make([]float32, len(x))...)
	}
	for name, op := range map[string]func(dst, a, b kernels.Buffer){
		"Add": d.Add, "ReLUBackward": d.ReLUBackward,
		"GELUBackward": func(dst, a, b kernels.Buffer) { d.GELUBackward(dst, nil, a, b) },
		"GELU":         func(dst, a, _ kernels.Buffer) { d.GELU(dst, a) },
		"ReLU":         func(dst, a, _ kernels.Buffer) { d.ReLU(dst, a) },
	} {
		a, b, c := fresh()
		op(c, a, b)
		op(a, a, b)
		same(t, download(t, d, c), download(t, d, a), "%s onto its first operand", name)
		if name == "GELU" || name == "ReLU" {
			continue
		}
		a, b, _ = fresh()
		op(b, a, b)
		same(t, download(t, d, c), download(t, d, b), "%s onto its second operand", name)
	}
}

// accumulates checks that "+=" adds to what is there, in the order that the contract names.
func accumulates(t *testing.T, d kernels.Device) {
	// In float32 2²⁴+1 is 2²⁴: only adding both tokens' gradients one by one loses them both.
	big := float32(1 << 24)
	dwte, dwpe := upload(t, d, big, 0), upload(t, d, 0, big)
	d.EmbedBackward(dwte, dwpe, upload(t, d, 1, 1), uploadInts(t, d, 0, 0), 1, 2, 1)
	require.Equal(t, []float32{big, 0}, download(t, d, dwte))
	require.Equal(t, []float32{1, big}, download(t, d, dwpe))
	// A block of a product is summed first and then added, so 1+1 arrives.
	dw, dbias := upload(t, d, big), upload(t, d, big)
	d.LinearBackward(nil, dw, dbias, upload(t, d, 1, 1), upload(t, d, 1, 1), upload(t, d, 1), 2, 1, 1)
	require.Equal(t, []float32{big + 2}, download(t, d, dw))
	require.Equal(t, []float32{big + 2}, download(t, d, dbias))
}

func empty(t *testing.T, d kernels.Device) {
	none, one := upload(t, d), upload(t, d, 7)
	d.Zero(none)
	d.Copy(none, none)
	d.Add(none, none, none)
	d.Scale(none, 2)
	d.GELU(none, none)
	d.AdamW(none, none, none, none, 1, kernels.AdamW{Step: 1})
	d.SquareSum(one, none)
	require.Equal(t, []float32{0}, download(t, d, one))
}

func misuse(t *testing.T, d, other kernels.Device) {
	f := func(n int) kernels.Buffer { return upload(t, d, make([]float32, n)...) }
	i := func(x ...int32) kernels.Ints { return uploadInts(t, d, x...) }
	foreign := upload(t, other, 1, 2)
	step0 := kernels.AdamW{}
	for name, call := range map[string]func(){
		"slice past the end":           func() { f(3).Slice(2, 2) },
		"slice before the start":       func() { f(3).Slice(-1, 2) },
		"slice of overflowing length":  func() { f(3).Slice(1, math.MaxInt) },
		"ints slice past the end":      func() { i(1, 2).Slice(1, 2) },
		"upload of another length":     func() { d.Upload(f(3), make([]float32, 2)) },
		"ints of another length":       func() { d.UploadInts(i(1), make([]int32, 2)) },
		"copy of another length":       func() { d.Copy(f(3), f(2)) },
		"buffer of another device":     func() { d.Add(f(2), f(2), foreign) },
		"Add":                          func() { d.Add(f(3), f(3), f(2)) },
		"Linear out":                   func() { d.Linear(f(5), f(2), f(3), nil, 2, 3, 1) },
		"Linear bias":                  func() { d.Linear(f(6), f(2), f(3), f(2), 2, 3, 1) },
		"Linear dimension 0":           func() { d.Linear(f(0), f(0), f(3), nil, 0, 3, 1) },
		"LinearBackward dw":            func() { d.LinearBackward(nil, f(4), nil, f(6), f(2), f(3), 2, 3, 1) },
		"LinearBackward dx":            func() { d.LinearBackward(f(1), f(3), nil, f(6), f(2), f(3), 2, 3, 1) },
		"Embed token out of range":     func() { d.Embed(f(2), f(6), nil, i(3), 1, 1, 2) },
		"Embed negative token":         func() { d.Embed(f(2), f(6), nil, i(-1), 1, 1, 2) },
		"Embed ragged table":           func() { d.Embed(f(2), f(5), nil, i(0), 1, 1, 2) },
		"Embed short wpe":              func() { d.Embed(f(4), f(6), f(2), i(0, 1), 1, 2, 2) },
		"EmbedBackward token":          func() { d.EmbedBackward(f(6), nil, f(2), i(7), 1, 1, 2) },
		"Conv out":                     func() { d.Conv(f(11), f(9), f(12), nil, 3, window(1, 3, 3, 1, 2, 2, 1, 0)) },
		"Conv no stride":               func() { d.Conv(f(12), f(9), f(12), nil, 3, window(1, 3, 3, 1, 2, 2, 0, 0)) },
		"Conv pad of the window":       func() { d.Conv(f(75), f(9), f(12), nil, 3, window(1, 3, 3, 1, 2, 2, 1, 2)) },
		"Conv window past the image":   func() { d.Conv(f(3), f(1), f(12), nil, 3, window(1, 1, 1, 1, 2, 2, 1, 0)) },
		"ConvBackward dw":              func() { d.ConvBackward(nil, f(11), nil, f(12), f(9), f(12), 3, window(1, 3, 3, 1, 2, 2, 1, 0)) },
		"ConvBackward dx":              func() { d.ConvBackward(f(8), f(12), nil, f(12), f(9), f(12), 3, window(1, 3, 3, 1, 2, 2, 1, 0)) },
		"MaxPool x":                    func() { d.MaxPool(f(4), f(8), window(1, 3, 3, 1, 2, 2, 1, 0)) },
		"MaxPoolBackward dout":         func() { d.MaxPoolBackward(f(9), f(3), f(9), window(1, 3, 3, 1, 2, 2, 1, 0)) },
		"LayerNorm gamma":              func() { d.LayerNorm(f(6), f(2), f(2), f(6), f(2), f(3), 2, 3) },
		"AddRounded a":                 func() { d.AddRounded(f(3), f(2), f(3)) },
		"AddRounded b":                 func() { d.AddRounded(f(3), f(3), f(2)) },
		"ResidualLayerNorm sum":        func() { d.ResidualLayerNorm(f(5), f(6), f(2), f(2), f(6), f(6), f(3), f(3), 2, 3) },
		"ResidualLayerNorm b":          func() { d.ResidualLayerNorm(f(6), f(6), f(2), f(2), f(6), f(5), f(3), f(3), 2, 3) },
		"ResidualLayerNorm beta":       func() { d.ResidualLayerNorm(f(6), f(6), f(2), f(2), f(6), f(6), f(3), f(2), 2, 3) },
		"LayerNormBackward rstd":       func() { d.LayerNormBackward(f(6), f(3), f(3), f(6), f(6), f(3), f(2), f(1), 2, 3) },
		"Attention qkv":                func() { d.Attention(f(4), f(11), 1, 2, 1, 2) },
		"AttentionBackward dout":       func() { d.AttentionBackward(f(12), f(3), f(12), 1, 2, 1, 2) },
		"GELU":                         func() { d.GELU(f(2), f(3)) },
		"GELUBackward":                 func() { d.GELUBackward(f(2), nil, f(3), f(2)) },
		"GELUBackward out":             func() { d.GELUBackward(f(2), f(3), f(2), f(2)) },
		"CrossEntropy target":          func() { d.CrossEntropy(f(1), f(3), i(3), 1, 3, 1) },
		"CrossEntropy losses":          func() { d.CrossEntropy(f(2), f(3), i(0), 1, 3, 1) },
		"Sum out":                      func() { d.Sum(f(2), f(3)) },
		"AdamW moments":                func() { d.AdamW(f(2), f(2), f(3), f(2), 1, kernels.AdamW{Step: 1}) },
		"AdamW step 0":                 func() { d.AdamW(f(2), f(2), f(2), f(2), 1, step0) },
		"a dimension that overflows":   func() { d.Linear(f(1), f(1), f(1), nil, math.MaxInt/2+1, 2, 1) },
		"a product that wraps to size": func() { d.Linear(f(0), f(0), f(0), nil, 1<<32, 1<<32, 1<<32) },
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				message := recover()
				require.NotNil(t, message, "no panic")
				require.IsType(t, "", message, "a panic with a sentence")
				require.Contains(t, message, "kernels: ")
			}()
			call()
		})
	}
}

// nonFinite checks that NaN and infinity show in the results that depend on them, and only there.
func nonFinite(t *testing.T, d kernels.Device) {
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	at := func(n, i int, v float32) kernels.Buffer {
		x := normal(rand.New(rand.NewPCG(3, uint64(n))), n, 1)
		x[i] = v
		return upload(t, d, x...)
	}
	zeros := func(n int) kernels.Buffer { return upload(t, d, make([]float32, n)...) }
	bad := func(b kernels.Buffer) (indexes []int) {
		for i, v := range download(t, d, b) {
			if v-v != 0 {
				indexes = append(indexes, i)
			}
		}
		return indexes
	}
	for _, v := range []float32{nan, inf, -inf} {
		out := zeros(3 * 20)
		d.Linear(out, at(3*300, 310, v), at(20*300, 0, 1), nil, 3, 20, 300)
		require.Equal(t, interval(20, 40), bad(out), "Linear, row 1 of x has %v", v)
		out = zeros(40)
		d.LayerNorm(out, zeros(2), zeros(2), at(40, 25, v), at(20, 0, 1), at(20, 0, 1), 2, 20)
		require.Equal(t, interval(20, 40), bad(out), "LayerNorm, row 1 has %v", v)
		out = zeros(40)
		both := zeros(40)
		d.ResidualLayerNorm(both, out, zeros(2), zeros(2), at(40, 0, 1), at(40, 25, v), at(20, 0, 1), at(20, 0, 1), 2, 20)
		require.Equal(t, interval(20, 40), bad(out), "ResidualLayerNorm, row 1 has %v", v)
		require.Equal(t, interval(25, 26), bad(both), "the sum of ResidualLayerNorm has %v", v)
		losses, logits := zeros(2), at(40, 25, v)
		d.CrossEntropy(losses, logits, uploadInts(t, d, 3, 3), 2, 20, 1)
		if v != -inf { // a class of probability 0 is no error
			require.Equal(t, []int{1}, bad(losses), "CrossEntropy, row 1 has %v", v)
			require.Equal(t, interval(20, 40), bad(logits), "CrossEntropy, row 1 has %v", v)
		}
		sum := zeros(1)
		d.Sum(sum, at(5000, 4999, v))
		require.Equal(t, []int{0}, bad(sum), "Sum")
		d.SquareSum(sum, at(5000, 17, v))
		require.Equal(t, []int{0}, bad(sum), "SquareSum")
		x := at(37, 36, v)
		d.Scale(x, 0.5)
		require.Equal(t, []int{36}, bad(x), "Scale")
		p := at(37, 0, 1)
		d.AdamW(p, at(37, 36, v), zeros(37), zeros(37), 1, kernels.AdamW{LR: 1, Beta1: 0.9, Beta2: 0.9, Eps: 1, Step: 1})
		require.Equal(t, []int{36}, bad(p), "AdamW")
	}
	largest(t, d)
	x := upload(t, d, nan, inf, -inf, 1)
	out := zeros(4)
	d.ReLU(out, x)
	require.Equal(t, []int{0, 1}, bad(out), "ReLU keeps NaN")
	d.GELU(out, x)
	require.Subset(t, bad(out), []int{0, 1}, "GELU")
	// Causality: token 5's value reaches the outputs from 5 on, and no earlier one.
	const n, hs = 19, 3
	y := zeros(n * hs)
	d.Attention(y, at(n*3*hs, 5*3*hs+2*hs, nan), 1, n, 1, hs)
	var want []int
	for i := 5; i < n; i++ {
		want = append(want, i*hs)
	}
	require.Equal(t, want, bad(y), "Attention")
}

// largest checks which pixel a maximum is: the first of equal ones, zeros of both signs among them, and the last NaN.
func largest(t *testing.T, d kernels.Device) {
	nan, zero, inf := float32(math.NaN()), float32(math.Copysign(0, -1)), float32(math.Inf(-1))
	for _, c := range []struct {
		pixels []float32
		at     int
	}{
		{[]float32{1, 3, 3, 2}, 1}, {[]float32{zero, 0, zero, 0}, 0}, {[]float32{0, zero, 0, -1}, 0}, {[]float32{inf, inf, inf, inf}, 0},
		{[]float32{9, nan, 10, 11}, 1}, {[]float32{nan, 1, nan, 2}, 2}, {[]float32{nan, 1, 2, 3}, 0}, {[]float32{inf, -2, -1, -3}, 2},
	} {
		for _, channels := range []int{1, 5, 16, 35} { // part of a vector, whole ones, and both
			var x, want, grad []float32
			for i, v := range c.pixels {
				x = append(x, slices.Repeat([]float32{v}, channels)...)
				var g float32
				if i == c.at {
					g = 7
				}
				grad = append(grad, slices.Repeat([]float32{g}, channels)...)
			}
			want = slices.Repeat(c.pixels[c.at:c.at+1], channels)
			g, in := window(1, 2, 2, channels, 2, 2, 2, 0), upload(t, d, x...)
			out, dx := upload(t, d, make([]float32, channels)...), upload(t, d, x...)
			d.MaxPool(out, in, g)
			same(t, want, download(t, d, out), "MaxPool of %v", c.pixels)
			d.MaxPoolBackward(dx, upload(t, d, slices.Repeat([]float32{7}, channels)...), in, g)
			same(t, grad, download(t, d, dx), "MaxPoolBackward of %v", c.pixels)
		}
	}
}

func interval(from, to int) (x []int) {
	for ; from < to; from++ {
		x = append(x, from)
	}
	return x
}
