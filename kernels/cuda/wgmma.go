//go:build cuda

package cuda

// #include "launch.h"
import "C"

import (
	"errors"
	"fmt"
	"log/slog"
	"os"

	"github.com/farandole-ml/farandole/kernels"
)

const (
	// noWGMMA has products by mma.sync where it is set to 0, to compare.
	noWGMMA = "FARANDOLE_CUDA_WGMMA"
	// capabilityWGMMA is the only compute capability whose matrix unit has the instruction.
	capabilityWGMMA = 90
)

var errWrongProduct = errors.New("a wrong product")

var tilingWGMMA = tiling{[...]kernel{layoutNT: kMatmulWGMMANT, layoutNN: kMatmulWGMMANN, layoutTN: kMatmulWGMMATN},
	C.MMA_ROWS, C.MMA_COLUMNS, kernels.BlockMMA, true}

// chooseWGMMA makes products of bfloat16 those by wgmma where the GPU has it, and their class the device's, if products whose result is
// known come out right. If not, or when the driver does not take the kernels, it warns and leaves products and class as they are. An error
// means that the GPU is of no use to this process any more.
func (d *device) chooseWGMMA(capability int, log *slog.Logger) error {
	if !d.tiling.rounded || capability != capabilityWGMMA || os.Getenv(noWGMMA) == "0" {
		return nil
	}
	before := d.tiling
	err := d.do(func() error { return d.load("ptx/kernels.sm_90a.ptx", kMatmulWGMMANT, kernelCount) })
	if err == nil {
		d.tiling = &tilingWGMMA
		err = d.checkProducts()
	}
	if d.err != nil {
		return fmt.Errorf("products by wgmma: %w; %s=0 in the environment has them by mma.sync", d.err, noWGMMA)
	}
	if err != nil {
		d.tiling = before
		log.Warn("products by wgmma are not used, those by mma.sync are", "device", d.name, "class", d.class, "err", err)
		return nil
	}
	d.class = fmt.Sprintf("%ssm_%d", kernels.ClassBF16WGMMA, capability)
	return nil
}

// The products that are checked: more than a tile across, more than a group's rows, more steps than stages, and a last step with few terms.
const checkM, checkN, checkK = 70, 260, 5*C.WGMMA_STEP + 9

// checkProducts compares a product of each layout, accumulated and with a bias, with the host's. All values are integers so small that no
// order of additions rounds.
func (d *device) checkProducts() error {
	const op = "Open"
	a, b, bias, before := integers(checkM*checkK, 17), integers(checkN*checkK, 13), integers(checkN, 11), integers(checkM*checkN, 7)
	var parts [4]kernels.Buffer
	for i, x := range [][]float32{a, b, bias, before} {
		var err error
		if parts[i], err = d.Alloc(len(x)); err != nil {
			return err
		}
		d.Upload(parts[i], x)
	}
	got := make([]float32, checkM*checkN)
	for l := range layoutCount {
		rowsA, columnsA, rowsB, columnsB := checkM, checkK, checkN, checkK
		if l == layoutTN {
			rowsA, columnsA = columnsA, rowsA
		}
		if l != layoutNT {
			rowsB, columnsB = columnsB, rowsB
		}
		f, _ := d.factor(op, scratchA, address(parts[0]), rowsA, columnsA)
		g, _ := d.factor(op, scratchB, address(parts[1]), rowsB, columnsB)
		d.Upload(parts[3], before)
		d.multiply(op, product{layout: l, c: address(parts[3]), a: f, b: g, bias: address(parts[2]), m: checkM, n: checkN, k: checkK, accumulate: true})
		if err := d.Download(got, parts[3]); err != nil {
			return err
		}
		if err := compareProduct(l, got, a, b, bias, before); err != nil {
			return err
		}
	}
	return nil
}

// integers gives n values between -4 and 4, in an order that has no period of the tile's sizes.
func integers(n, step int) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = float32((i*step+i/31)%9 - 4)
	}
	return x
}

func compareProduct(l layout, got, a, b, bias, before []float32) error {
	rowA, termA, rowB, termB := checkK, 1, checkK, 1 // from one row, or term, of a factor to the next
	if l == layoutTN {
		rowA, termA = 1, checkM
	}
	if l != layoutNT {
		rowB, termB = 1, checkN
	}
	for i := range checkM {
		for j := range checkN {
			want := before[i*checkN+j] + bias[j]
			for k := range checkK {
				want += a[i*rowA+k*termA] * b[j*rowB+k*termB]
			}
			if got[i*checkN+j] != want {
				return fmt.Errorf("%w by %s: row %d, column %d is %v and must be %v", errWrongProduct, tilingWGMMA.kernels[l], i, j, got[i*checkN+j], want)
			}
		}
	}
	return nil
}
