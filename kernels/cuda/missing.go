//go:build cuda

package cuda

import "github.com/farandole-ml/farandole/kernels"

func (driverGPUs) Find() (string, error)                                               { return "", nil }
func (d *device) columnSums(op string, dst, x uint64, rows, n int)                     { panic("todo") }
func (d *device) Embed(out, wte, wpe kernels.Buffer, tokens kernels.Ints, b, t, c int) { panic("todo") }
func (d *device) EmbedBackward(out, wte, wpe kernels.Buffer, tokens kernels.Ints, b, t, c int) {
	panic("todo")
}
func (d *device) LayerNorm(out, mean, rstd, x, gamma, beta kernels.Buffer, rows, c int) {
	panic("todo")
}
func (d *device) LayerNormBackward(dx, dgamma, dbeta, dout, x, gamma, mean, rstd kernels.Buffer, rows, c int) {
	panic("todo")
}
func (d *device) Conv(out, x, w, bias kernels.Buffer, filters int, g kernels.Window) { panic("todo") }
func (d *device) ConvBackward(dx, dw, dbias, dout, x, w kernels.Buffer, filters int, g kernels.Window) {
	panic("todo")
}
func (d *device) MaxPool(out, x kernels.Buffer, g kernels.Window)              { panic("todo") }
func (d *device) MaxPoolBackward(dx, dout, x kernels.Buffer, g kernels.Window) { panic("todo") }
func (d *device) Attention(out, qkv kernels.Buffer, b, t, heads, hs int)       { panic("todo") }
func (d *device) AttentionBackward(dqkv, dout, qkv kernels.Buffer, b, t, heads, hs int) {
	panic("todo")
}
func (d *device) CrossEntropy(losses, logits kernels.Buffer, targets kernels.Ints, rows, v int, scale float32) {
	panic("todo")
}
func (d *device) Sum(out, x kernels.Buffer)       { panic("todo") }
func (d *device) SquareSum(out, x kernels.Buffer) { panic("todo") }
