//go:build cuda

package cuda

// #include "launch.h"
import "C"

import "github.com/farandole-ml/farandole/kernels"

// attend launches one of attention's kernels: a block for each head and tile of rows and of values.
func (d *device) attend(op string, k kernel, b, t, heads, hs int, args ...uint64) {
	grid := dim{b * heads, blocks(t, C.ATTENTION_TILE), blocks(hs, C.ATTENTION_TILE)}
	d.launch(op, k, grid, line(C.ATTENTION_THREADS), sharedBytes[k], args...)
}

func (d *device) Attention(out, qkv kernels.Buffer, b, t, heads, hs int) {
	d.shapes.CheckAttention(out, qkv, b, t, heads, hs)
	d.attend("Attention", kAttention, b, t, heads, hs, address(out), address(qkv), number(t), number(heads), number(hs),
		float(kernels.AttentionScale(hs)))
}

func (d *device) AttentionBackward(dqkv, dout, qkv kernels.Buffer, b, t, heads, hs int) {
	const op = "AttentionBackward"
	d.shapes.CheckAttentionBackward(dqkv, dout, qkv, b, t, heads, hs)
	statistics, ok := d.room(op, scratchStatistics, 3*b*heads*t)
	if !ok {
		return
	}
	for _, k := range [...]kernel{kAttentionBackwardRows, kAttentionBackwardColumns} {
		d.attend(op, k, b, t, heads, hs, address(dqkv), statistics, address(dout), address(qkv), number(b), number(t), number(heads),
			number(hs), float(kernels.AttentionScale(hs)))
	}
}
