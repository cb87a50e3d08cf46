//go:build cuda

package cuda

import (
	"errors"
	"fmt"
	"log/slog"

	"gorgonia.org/cu"

	"github.com/farandole-ml/farandole/kernels"
	"github.com/farandole-ml/farandole/kernels/cuda/gpus"
)

func init() { kernels.RegisterGPUs(driverGPUs{}) }

// driverGPUs are those that the driver gives this process: CUDA_VISIBLE_DEVICES may hide some of the host's.
type driverGPUs struct{}

// Find asks NVML for the host's GPUs, and the driver for those of this process.
func (driverGPUs) Find(cfg kernels.Config) (what string, err error) {
	host, err := gpus.List(library)
	if err != nil {
		return "", err
	}
	n, err := count()
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("NVML finds %v; local rank %d of %d GPUs for this process", host, cfg.LocalRank, n), nil
}

// Open gives the worker of each local rank the next GPU, and begins again when there are more workers than GPUs. Where that
// GPU does not work it takes the next that does.
func (driverGPUs) Open(cfg kernels.Config) (kernels.Device, error) {
	switch cfg.Precision {
	case "", kernels.ClassF32, kernels.ClassBF16:
	default:
		return nil, fmt.Errorf("precision %q: use %s or %s", cfg.Precision, kernels.ClassF32, kernels.ClassBF16)
	}
	if err := checkProducts(cfg); err != nil {
		return nil, err
	}
	n, err := count()
	if err != nil {
		return nil, err
	}
	return firstOf(cfg.LocalRank, n, func(i int) (*device, error) { return open(i, cfg) }, cfg.Logger)
}

// firstOf opens GPU rank, or the first after it that opens.
func firstOf(rank, n int, open func(i int) (*device, error), log *slog.Logger) (kernels.Device, error) {
	var failed []error
	for k := range n {
		d, err := open((rank + k) % n)
		if err == nil {
			for _, e := range failed {
				log.Warn("a GPU does not work, the next one is taken", "err", e, "chosen", d.Name())
			}
			return d, nil
		}
		failed = append(failed, err)
	}
	return nil, errors.Join(failed...)
}

// count is how many GPUs the driver gives, at least one.
func count() (int, error) {
	if err := loadDriver(); err != nil {
		return 0, fmt.Errorf("%w for CUDA: %w", kernels.ErrNoGPU, err)
	}
	n, err := cu.NumDevices()
	if err != nil {
		return 0, fmt.Errorf("%w for CUDA: %w", kernels.ErrNoGPU, described(err))
	}
	if n == 0 {
		return 0, fmt.Errorf("%w for CUDA: the driver has none; does CUDA_VISIBLE_DEVICES hide them?", kernels.ErrNoGPU)
	}
	return n, nil
}
