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

	kernelCount
)

// names are the kernels' names in the PTX.
var names = [kernelCount]string{
	kAdd: "add", kScale: "scale", kGELU: "gelu", kGELUBackward: "gelu_backward", kReLU: "relu", kReLUBackward: "relu_backward",
	kAdamW:    "adamw",
	kMatmulNT: "matmul_nt", kMatmulNN: "matmul_nn", kMatmulTN: "matmul_tn", kAddPlanes: "add_planes",
}

func (k kernel) String() string { return names[k] }
