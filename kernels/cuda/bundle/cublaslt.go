package main

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// cublasLtSearch is how long Python has to say where its packages are.
const cublasLtSearch = 20 * time.Second

// withCuBLASLt does a part with products by cuBLASLt, where the linker finds it or Python has a package with it.
func withCuBLASLt(do func(context.Context, *bench, *report) result) func(context.Context, *bench, *report) result {
	return func(ctx context.Context, b *bench, r *report) result {
		folders := filepath.SplitList(os.Getenv("LD_LIBRARY_PATH"))
		if e := b.run(ctx, cublasLtSearch, "python3", "-c", "import site; print('\\n'.join(site.getsitepackages() + [site.getusersitepackages()]))"); e.err == nil {
			folders = append(folders, packaged(strings.Fields(e.output))...)
		}
		was := *b
		defer func() { b.env, b.products = was.env, was.products }()
		b.env = append(slices.Clip(was.env), "LD_LIBRARY_PATH="+strings.Join(folders, string(filepath.ListSeparator)))
		b.products = "cublaslt"
		e := b.run(ctx, timeLeft(ctx), b.program("farandole"), "bench", "gemm", "--device", "cuda", "--precision", "bf16", "--products", b.products,
			"--iters", "1", "-m", "8", "-n", "8", "-k", "8")
		if e.err != nil && strings.Contains(e.output, "cuBLASLt is not here") {
			return nothing("cuBLASLt is not here")
		}
		if e.err != nil {
			return fail(e, "a small product by cuBLASLt: %v", e.err)
		}
		return do(ctx, b, r)
	}
}

// packaged gives the folders of cuBLASLt below those of Python's packages.
func packaged(sites []string) (folders []string) {
	for _, site := range sites {
		for _, lib := range []string{"nvidia/cu13/lib", "nvidia/cublas/lib"} {
			if found, _ := filepath.Glob(filepath.Join(site, lib, "libcublasLt.so.*")); len(found) > 0 {
				folders = append(folders, filepath.Join(site, lib))
			}
		}
	}
	return folders
}

// by is the name of a precision's figures.
func (b *bench) by(precision string) string {
	if b.products == "" {
		return precision
	}
	return precision + " " + b.products
}
