//go:build cuda

package cuda

// #cgo LDFLAGS: -ldl
// #include <stdlib.h>
// #include "cublaslt.h"
import "C"

import (
	"fmt"
	"strings"
	"sync"
	"unsafe"

	"gorgonia.org/cu"

	"github.com/farandole-ml/farandole/kernels"
)

// cublasLtFiles are the names by which the dynamic linker looks for cuBLASLt, the first that it finds is taken.
var cublasLtFiles = []string{"libcublasLt.so.13", "libcublasLt.so.12"}

// howToFindCuBLASLt ends a sentence on a program that has not found it.
const howToFindCuBLASLt = "install the library and name its folder in LD_LIBRARY_PATH (it comes with CUDA, with PyTorch, and as PyPI's nvidia-cublas-cu12), or use products own"

// loadCuBLASLt finds the library, once, and gives its version, 120903 for 12.9.3.
var loadCuBLASLt = sync.OnceValues(func() (version int, err error) {
	var reasons []string
	for _, file := range cublasLtFiles {
		var why [reasonLen]C.char
		var v C.size_t
		name := C.CString(file)
		code := C.farandole_lt_load(name, &v, &why[0], reasonLen)
		C.free(unsafe.Pointer(name))
		if code == 0 {
			return int(v), nil
		}
		reasons = append(reasons, C.GoString(&why[0]))
	}
	return 0, fmt.Errorf("products %s: cuBLASLt is not here (%s): %s", kernels.ProductsCuBLASLt, strings.Join(reasons, "; "), howToFindCuBLASLt)
})

// checkProducts says what is wrong with a choice of products, before any GPU is opened.
func checkProducts(cfg kernels.Config) error {
	switch {
	case cfg.Products == "" || cfg.Products == kernels.ProductsOwn:
		return nil
	case cfg.Products != kernels.ProductsCuBLASLt:
		return fmt.Errorf("products %q: use %s or %s", cfg.Products, kernels.ProductsOwn, kernels.ProductsCuBLASLt)
	case cfg.Precision != kernels.ClassBF16:
		return fmt.Errorf("products %s: it multiplies bfloat16: use precision %s with it, or products %s", cfg.Products, kernels.ClassBF16, kernels.ProductsOwn)
	}
	_, err := loadCuBLASLt()
	return err
}

// cublasLt is what a device has of the library.
//
// Each shape's algorithm is asked for once, with the same workspace and without regard to addresses, so that it is a function of the shape, of the
// library's version and of the GPU's kind and number of multiprocessors, which are in the class's name. A shape for which there is none
// is multiplied by the kernels of class "bf16-mma-".
type cublasLt struct {
	handle unsafe.Pointer
	plans  map[C.struct_farandole_lt_shape]*C.struct_farandole_lt_plan // nil: there is no algorithm
	call   C.struct_farandole_lt_call                                  // the one that is being submitted
}

// cublasLtError is the library's own failure.
type cublasLtError struct {
	doing  string
	status int
}

func (e *cublasLtError) Error() string {
	return fmt.Sprintf("cuBLASLt: %s: %s (status %d)", e.doing, C.GoString(C.farandole_lt_describe(C.int(e.status))), e.status)
}

func cublasLtResult(doing string, status C.int) error {
	if status == 0 {
		return nil
	}
	return &cublasLtError{doing, int(status)}
}

// useCuBLASLt has the library multiply from now on, in a class of its own. The context is current.
func (d *device) useCuBLASLt() error {
	version, err := loadCuBLASLt()
	if err != nil {
		return err
	}
	major, err := d.ordinal.Attribute(cu.ComputeCapabilityMajor)
	if err != nil {
		return described(err)
	}
	minor, err := d.ordinal.Attribute(cu.ComputeCapabilityMinor)
	if err != nil {
		return described(err)
	}
	lib := &cublasLt{plans: map[C.struct_farandole_lt_shape]*C.struct_farandole_lt_plan{}}
	if err := cublasLtResult(fmt.Sprintf("version %d does not begin; is the driver older than it?", version), C.farandole_lt_create(&lib.handle)); err != nil {
		return err
	}
	d.cublasLt, d.tiling = lib, &tilingBF16
	d.class = fmt.Sprintf("%ssm_%d%d-%d-%d", kernels.ClassBF16CuBLASLt, major, minor, version, d.processors)
	return nil
}

// close ends the library's use. The stream has done its work.
func (l *cublasLt) close() error {
	if l == nil {
		return nil
	}
	for _, p := range l.plans {
		C.farandole_lt_plan_free(p)
	}
	l.plans = nil
	return cublasLtResult("it does not end", C.farandole_lt_destroy(l.handle))
}

// plan gives the algorithm for p, nil where there is none. ok is false after an error, which sticks.
func (d *device) plan(op string, p *product) (plan *C.struct_farandole_lt_plan, ok bool) {
	s := C.struct_farandole_lt_shape{m: C.int64_t(p.m), n: C.int64_t(p.n), k: C.int64_t(p.k), a_stride: C.int64_t(p.a.stride), b_stride: C.int64_t(p.b.stride)}
	if p.layout == layoutTN {
		s.a_down = 1
	}
	if p.layout != layoutNT {
		s.b_down = 1
	}
	if p.bias != 0 {
		s.bias = 1
	}
	if plan, ok = d.cublasLt.plans[s]; ok || d.err != nil {
		return plan, ok
	}
	plan, err := d.newPlan(s)
	if err != nil {
		_ = d.fail(op, err)
		return nil, false
	}
	d.cublasLt.plans[s] = plan
	return plan, true
}

// newPlan has the library choose an algorithm.
func (d *device) newPlan(s C.struct_farandole_lt_shape) (plan *C.struct_farandole_lt_plan, err error) {
	err = d.do(func() error {
		return cublasLtResult("it chooses no algorithm", C.farandole_lt_plan_new(d.cublasLt.handle, &s, &plan))
	})
	return plan, err
}

// multiplyByLibrary enqueues a product, and says false when the device's own kernels are to do it. What the library cannot take where it lies,
// because its address is not aligned, goes by way of scratch memory: the algorithm and so the bits are the same.
func (d *device) multiplyByLibrary(op string, p product) bool {
	plan, ok := d.plan(op, &p)
	if !ok || plan == nil {
		return !ok
	}
	workspace, ok := d.room(op, scratchWorkspace, C.FARANDOLE_LT_WORKSPACE/4)
	if !ok {
		return true
	}
	c, result := p.c, 4*p.m*p.n
	if c%C.FARANDOLE_LT_ALIGNMENT != 0 {
		if c, ok = d.room(op, scratchPlanes, p.m*p.n); !ok {
			return true
		}
		if p.accumulate {
			d.put(op, copyOn).set(c, p.c, number(result))
		}
	}
	if p.bias%C.FARANDOLE_LT_ALIGNMENT != 0 {
		at, ok := d.room(op, scratchBias, p.n)
		if !ok {
			return true
		}
		d.put(op, copyOn).set(at, p.bias, number(4*p.n))
		p.bias = at
	}
	call := d.put(op, callLibrary)
	call.set(c, p.a.at, p.b.at, p.bias, workspace, truth(p.accumulate))
	call.host = unsafe.Pointer(plan)
	if c != p.c {
		d.put(op, copyOn).set(p.c, c, number(result))
	}
	return true
}

// submitToLibrary hands over a call of multiplyByLibrary, whose context is current.
func (d *device) submitToLibrary(c *call) error {
	a, l := &c.args, d.cublasLt
	l.call = C.struct_farandole_lt_call{
		c: C.uint64_t(a[0]), a: C.uint64_t(a[1]), b: C.uint64_t(a[2]), bias: C.uint64_t(a[3]), workspace: C.uint64_t(a[4]), accumulate: C.uint64_t(a[5]),
	}
	return cublasLtResult("it does not multiply", C.farandole_lt_multiply(l.handle, (*C.struct_farandole_lt_plan)(c.host), &l.call, handle(d.stream)))
}
