//go:build cuda

package cuda

// kernel is one entry of the PTX.
type kernel int

const (
	kAdd kernel = iota
	kScale
	kGELU
	kGELUBackward
	kReLU
	kReLUBackward
	kAdamW
	kMatmulNT
	kMatmulNN
	kMatmulTN
	kAddPlanes
	kColumnSums
	kEmbed
	kEmbedBackwardTokens
	kEmbedBackwardPositions
	kLayerNorm
	kLayerNormBackwardRows
	kLayerNormBackwardColumns
	kCrossEntropy
	kBlockSums
	kSumTotal
	kWindowColumns
	kWindowImages
	kMaxPool
	kMaxPoolBackward

	kernelCount
)

// names are the kernels' names in the PTX.
var names = [kernelCount]string{
	kAdd: "add", kScale: "scale", kGELU: "gelu", kGELUBackward: "gelu_backward", kReLU: "relu", kReLUBackward: "relu_backward",
	kAdamW:    "adamw",
	kMatmulNT: "matmul_nt", kMatmulNN: "matmul_nn", kMatmulTN: "matmul_tn", kAddPlanes: "add_planes", kColumnSums: "column_sums",
	kEmbed: "embed", kEmbedBackwardTokens: "embed_backward_tokens", kEmbedBackwardPositions: "embed_backward_positions",
	kLayerNorm: "layernorm", kLayerNormBackwardRows: "layernorm_backward_rows", kLayerNormBackwardColumns: "layernorm_backward_columns",
	kCrossEntropy: "cross_entropy", kBlockSums: "block_sums", kSumTotal: "sum_total",
	kWindowColumns: "window_columns", kWindowImages: "window_images", kMaxPool: "max_pool", kMaxPoolBackward: "max_pool_backward",
}

func (k kernel) String() string { return names[k] }
