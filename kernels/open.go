package kernels

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
)

// ErrNoGPU says that there is no GPU to compute on, and why.
var ErrNoGPU = errors.New("no GPU")

// What multiplies: values of Config.Products.
const (
	ProductsOwn      = "own"      // the kernels of this program
	ProductsAMX      = "amx"      // on a CPU, as Intel's matrix unit does, in a numerics class of its own; without one the same bits, slowly
	ProductsCuBLASLt = "cublaslt" // on a GPU, NVIDIA's library, where it is present, in a numerics class of its own
)

// AllProducts are the values of Config.Products, of which each device has some.
func AllProducts() []string { return []string{ProductsOwn, ProductsAMX, ProductsCuBLASLt} }

// GPUs opens GPUs. Package kernels/cuda registers the one that there is.
type GPUs interface {
	// Open gives the GPU for a worker. Without one the error is an ErrNoGPU.
	Open(cfg Config) (Device, error)
	// Find says what GPUs a worker would have; none is an ErrNoGPU.
	Find(cfg Config) (what string, err error)
}

var gpus struct {
	sync.Mutex
	opener GPUs
}

// RegisterGPUs makes g what Open asks for GPUs.
func RegisterGPUs(g GPUs) {
	gpus.Lock()
	defer gpus.Unlock()
	gpus.opener = g
}

// howToBuild ends a sentence on a program without the package for GPUs.
const howToBuild = "this program was built without GPUs: build it with -tags cuda (make build-cuda does), or use cpu"

// Open gives the device that people name: "auto" or "" for the best there is, "cpu", or "cuda". The error says what to use
// instead. The log has one line on what auto chose and why.
func Open(name string, cfg Config) (Device, error) {
	gpus.Lock()
	opener := gpus.opener
	gpus.Unlock()
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	switch name {
	case "cpu":
		return NewCPU(cfg)
	case "cuda":
		if opener == nil {
			return nil, fmt.Errorf("device cuda: %s", howToBuild)
		}
		d, err := opener.Open(cfg)
		if err != nil {
			return nil, fmt.Errorf("device cuda: %w", err)
		}
		return d, nil
	case "", "auto":
		return openBest(opener, cfg)
	}
	return nil, fmt.Errorf("device %q is not known: use auto, cpu or cuda", name)
}

// openBest takes a GPU if there is one. One that is there and does not open is an error: nobody who has a GPU wants to train on
// the CPU unawares.
func openBest(opener GPUs, cfg Config) (Device, error) {
	var what string
	var err error
	switch {
	case opener == nil:
		err = errors.New("this program was built without GPUs")
	default:
		what, err = opener.Find(cfg)
	}
	if err == nil {
		d, err := opener.Open(cfg)
		if err != nil {
			return nil, fmt.Errorf("device auto: %s, but none opens: %w", what, err)
		}
		cfg.Logger.Info("device auto", "chosen", d.Name(), "because", what)
		return d, nil
	}
	d, cpuErr := NewCPU(cfg)
	if cpuErr != nil {
		return nil, cpuErr
	}
	cfg.Logger.Info("device auto", "chosen", d.Name(), "because", err)
	return d, nil
}
