package kernelstest

import (
	"math"

	"github.com/farandole-ml/farandole/kernels"
)

// eachUnder calls do for every position of g and pixel under it that lies on the image: image n, position oy and ox, row ky and
// column kx of the window, the pixel's row y and column x.
func eachUnder(g kernels.Window, do func(n, oy, ox, ky, kx, y, x int)) {
	height, width := g.Out()
	for n := range g.Images {
		for oy := range height {
			for ox := range width {
				for ky := range g.Rows {
					for kx := range g.Columns {
						y, x := oy*g.Stride+ky-g.Pad, ox*g.Stride+kx-g.Pad
						if y >= 0 && y < g.Height && x >= 0 && x < g.Width {
							do(n, oy, ox, ky, kx, y, x)
						}
					}
				}
			}
		}
	}
}

// at is the index of channel c at row y and column x of image n, in images of the given size.
func at(height, width, channels, n, y, x, c int) int { return ((n*height+y)*width+x)*channels + c }

// Conv64 is the convolution of x[n,h,w,c] with w[filters,rows,columns,c], + bias[filters].
func Conv64(x, w, bias []float64, filters int, g kernels.Window) []float64 {
	height, width := g.Out()
	out := make([]float64, g.Images*height*width*filters)
	if bias != nil {
		for i := range out {
			out[i] = bias[i%filters]
		}
	}
	eachUnder(g, func(n, oy, ox, ky, kx, iy, ix int) {
		for f := range filters {
			for c := range g.Channels {
				out[at(height, width, filters, n, oy, ox, f)] += x[at(g.Height, g.Width, g.Channels, n, iy, ix, c)] * w[at(g.Rows, g.Columns, g.Channels, f, ky, kx, c)]
			}
		}
	})
	return out
}

// ConvBackward64 gives the gradients of Conv64.
func ConvBackward64(dout, x, w []float64, filters int, g kernels.Window) (dx, dw, dbias []float64) {
	height, width := g.Out()
	dx, dw, dbias = make([]float64, len(x)), make([]float64, len(w)), make([]float64, filters)
	for i, d := range dout {
		dbias[i%filters] += d
	}
	eachUnder(g, func(n, oy, ox, ky, kx, iy, ix int) {
		for f := range filters {
			d := dout[at(height, width, filters, n, oy, ox, f)]
			for c := range g.Channels {
				pixel, weight := at(g.Height, g.Width, g.Channels, n, iy, ix, c), at(g.Rows, g.Columns, g.Channels, f, ky, kx, c)
				dx[pixel] += d * w[weight]
				dw[weight] += d * x[pixel]
			}
		}
	})
	return dx, dw, dbias
}

// MaxPool64 gives the largest pixel under each position, and its index in x.
func MaxPool64(x []float64, g kernels.Window) (out []float64, where []int) {
	height, width := g.Out()
	out, where = make([]float64, g.Images*height*width*g.Channels), make([]int, g.Images*height*width*g.Channels)
	for i := range out {
		out[i] = math.Inf(-1)
	}
	eachUnder(g, func(n, oy, ox, _, _, iy, ix int) {
		for c := range g.Channels {
			o, pixel := at(height, width, g.Channels, n, oy, ox, c), at(g.Height, g.Width, g.Channels, n, iy, ix, c)
			if x[pixel] > out[o] {
				out[o], where[o] = x[pixel], pixel
			}
		}
	})
	return out, where
}

// MaxPoolBackward64 gives the gradient of MaxPool64.
func MaxPoolBackward64(dout, x []float64, g kernels.Window) []float64 {
	dx := make([]float64, len(x))
	_, where := MaxPool64(x, g)
	for o, pixel := range where {
		dx[pixel] += dout[o]
	}
	return dx
}
