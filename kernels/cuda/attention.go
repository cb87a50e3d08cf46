//go:build cuda

package cuda

// #include "launch.h"
import "C"

import "github.com/farandole-ml/farandole/kernels"

// attending is the kernels of attention for heads of some width: how many threads their blocks have, and queries or keys a block.
type attending struct {
	forward, rows, columns  kernel
	threads, forwardThreads int
	tile                    int
	rounded                 bool // the products' factors are bfloat16
}

var (
	attentionF32 = attending{kAttention, kAttentionBackwardRows, kAttentionBackwardColumns,
		C.ATTENTION_THREADS, C.ATTENTION_THREADS, C.ATTENTION_TILE, false}
	attentionNarrow = attending{kAttentionBF16Narrow, kAttentionBF16RowsNarrow, kAttentionBF16ColumnsNarrow,
		C.ATTENTION_BF16_THREADS, C.ATTENTION_BF16_NARROW_THREADS, C.ATTENTION_BF16_ROWS, true}
	attentionWide = attending{kAttentionBF16Wide, kAttentionBF16RowsWide, kAttentionBF16ColumnsWide,
		C.ATTENTION_BF16_THREADS, C.ATTENTION_BF16_THREADS, C.ATTENTION_BF16_ROWS, true}

	_ = [1]int{}[C.ATTENTION_BF16_MOST-kernels.MaxRoundedHead] // they are equal
)

// attending gives the kernels for heads of hs values in the device's class.
func (d *device) attending(hs int) attending {
	switch {
	case !d.tiling.rounded || hs > kernels.MaxRoundedHead:
		return attentionF32
	case hs <= C.ATTENTION_BF16_NARROW:
		return attentionNarrow
	default:
		return attentionWide
	}
}

// grid has a block for each head and each tile of rows. One of float32 has a part of the head's values besides, one of bfloat16 all.
func (a attending) grid(b, t, heads, hs int) dim {
	if a.rounded {
		return dim{b * heads, blocks(t, a.tile), 1}
	}
	return dim{b * heads, blocks(t, a.tile), blocks(hs, C.ATTENTION_TILE)}
}

// statistics is how many values of scratch memory the backward pass needs.
func (a attending) statistics(b, t, heads int) int {
	if a.rounded {
		return 2 * b * heads * blocks(t, a.tile) * a.tile
	}
	return 3 * b * heads * t
}

func (d *device) Attention(out, qkv kernels.Buffer, b, t, heads, hs int) {
	d.shapes.CheckAttention(out, qkv, b, t, heads, hs)
	a := d.attending(hs)
	d.launch("Attention", a.forward, a.grid(b, t, heads, hs), line(a.forwardThreads), sharedBytes[a.forward], address(out), address(qkv),
		number(t), number(heads), number(hs), float(kernels.AttentionScale(hs)))
}

func (d *device) AttentionBackward(dqkv, dout, qkv kernels.Buffer, b, t, heads, hs int) {
	const op = "AttentionBackward"
	d.shapes.CheckAttentionBackward(dqkv, dout, qkv, b, t, heads, hs)
	a := d.attending(hs)
	statistics, ok := d.room(op, scratchStatistics, a.statistics(b, t, heads))
	if !ok {
		return
	}
	for _, k := range [...]kernel{a.rows, a.columns} {
		d.launch(op, k, a.grid(b, t, heads, hs), line(a.threads), sharedBytes[k], address(dqkv), statistics, address(dout), address(qkv),
			number(b), number(t), number(heads), number(hs), float(kernels.AttentionScale(hs)))
	}
}
