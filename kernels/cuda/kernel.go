//go:build cuda

package cuda

// #include "launch.h"
import "C"

// kernel is one entry of the PTX.
type kernel int

const (
	kAdd kernel = iota
	kAddRounded
	kScale
	kGELU
	kGELUBackward
	kReLU
	kReLUBackward
	kAdamW
	kMatmulNT
	kMatmulNN
	kMatmulTN
	kEncodeBF16
	kMatmulBF16NT
	kMatmulBF16NN
	kMatmulBF16TN
	kAddPlanes
	kColumnSums
	kEmbed
	kEmbedBackwardTokens
	kEmbedBackwardPositions
	kLayerNorm
	kResidualLayerNorm
	kLayerNormBackwardRows
	kLayerNormBackwardColumns
	kCrossEntropy
	kBlockSums
	kSumTotal
	kWindowColumns
	kWindowImages
	kMaxPool
	kMaxPoolBackward
	kAttention
	kAttentionBackwardRows
	kAttentionBackwardColumns
	kAttentionBF16Narrow
	kAttentionBF16Wide
	kAttentionBF16RowsNarrow
	kAttentionBF16RowsWide
	kAttentionBF16ColumnsNarrow
	kAttentionBF16ColumnsWide

	// Only compute capability 9.0 has these: see chooseWGMMA.
	kMatmulWGMMANT
	kMatmulWGMMANN
	kMatmulWGMMATN

	kernelCount
)

// names are the kernels' names in the PTX.
var names = [kernelCount]string{
	kAdd: "add", kAddRounded: "add_rounded", kScale: "scale", kGELU: "gelu", kGELUBackward: "gelu_backward", kReLU: "relu", kReLUBackward: "relu_backward",
	kAdamW:    "adamw",
	kMatmulNT: "matmul_nt", kMatmulNN: "matmul_nn", kMatmulTN: "matmul_tn",
	kEncodeBF16: "encode_bf16", kMatmulBF16NT: "matmul_bf16_nt", kMatmulBF16NN: "matmul_bf16_nn", kMatmulBF16TN: "matmul_bf16_tn",
	kAddPlanes: "add_planes", kColumnSums: "column_sums",
	kEmbed: "embed", kEmbedBackwardTokens: "embed_backward_tokens", kEmbedBackwardPositions: "embed_backward_positions",
	kLayerNorm: "layernorm", kResidualLayerNorm: "residual_layernorm", kLayerNormBackwardRows: "layernorm_backward_rows", kLayerNormBackwardColumns: "layernorm_backward_columns",
	kCrossEntropy: "cross_entropy", kBlockSums: "block_sums", kSumTotal: "sum_total",
	kWindowColumns: "window_columns", kWindowImages: "window_images", kMaxPool: "max_pool", kMaxPoolBackward: "max_pool_backward",
	kAttention: "attention", kAttentionBackwardRows: "attention_backward_rows", kAttentionBackwardColumns: "attention_backward_columns",
	kAttentionBF16Narrow: "attention_bf16_64", kAttentionBF16RowsNarrow: "attention_bf16_rows_64", kAttentionBF16ColumnsNarrow: "attention_bf16_columns_64",
	kAttentionBF16Wide: "attention_bf16_128", kAttentionBF16RowsWide: "attention_bf16_rows_128", kAttentionBF16ColumnsWide: "attention_bf16_columns_128",
	kMatmulWGMMANT: "matmul_bf16_wgmma_nt", kMatmulWGMMANN: "matmul_bf16_wgmma_nn", kMatmulWGMMATN: "matmul_bf16_wgmma_tn",
}

// sharedBytes is the dynamic shared memory of the kernels that have some. More than defaultShared is asked for when a device is opened.
var sharedBytes = [kernelCount]int{
	kMatmulBF16NT:             C.MMA_BYTES,
	kMatmulBF16NN:             C.MMA_BYTES,
	kMatmulBF16TN:             C.MMA_BYTES,
	kAttention:                C.ATTENTION_BYTES,
	kAttentionBackwardRows:    C.ATTENTION_BACKWARD_ROWS_BYTES,
	kAttentionBackwardColumns: C.ATTENTION_BACKWARD_COLUMNS_BYTES,

	kAttentionBF16Narrow:        C.ATTENTION_BF16_BYTES,
	kAttentionBF16Wide:          C.ATTENTION_BF16_BYTES,
	kAttentionBF16RowsNarrow:    C.ATTENTION_BF16_BYTES,
	kAttentionBF16RowsWide:      C.ATTENTION_BF16_BYTES,
	kAttentionBF16ColumnsNarrow: C.ATTENTION_BF16_COLUMNS_64_BYTES,
	kAttentionBF16ColumnsWide:   C.ATTENTION_BF16_COLUMNS_128_BYTES,

	kMatmulWGMMANT: C.WGMMA_BYTES,
	kMatmulWGMMANN: C.WGMMA_BYTES,
	kMatmulWGMMATN: C.WGMMA_BYTES,
}

const defaultShared = 48 << 10

func (k kernel) String() string { return names[k] }
