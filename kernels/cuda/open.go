//go:build cuda

package cuda

import (
	"fmt"

	"gorgonia.org/cu"

	"github.com/farandole-ml/farandole/kernels"
)

func init() { kernels.RegisterGPUs(driverGPUs{}) }

// driverGPUs are those that the driver gives this process: CUDA_VISIBLE_DEVICES may hide some.
type driverGPUs struct{}

// Open gives the worker of each local rank the next GPU, and starts again when there are more workers than GPUs.
func (driverGPUs) Open(cfg kernels.Config) (kernels.Device, error) {
	if cfg.Precision != "" && cfg.Precision != kernels.ClassF32 {
		return nil, fmt.Errorf("precision %s is for the CPU: use --precision f32, or --device cpu", cfg.Precision)
	}
	n, err := count()
	if err != nil {
		return nil, err
	}
	return open(cfg.LocalRank % n)
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
		return 0, fmt.Errorf("%w for CUDA: the driver has none", kernels.ErrNoGPU)
	}
	return n, nil
}
