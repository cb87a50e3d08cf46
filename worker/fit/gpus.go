//go:build cuda

package fit

import _ "github.com/farandole-ml/farandole/kernels/cuda" // registers itself: --device cuda
