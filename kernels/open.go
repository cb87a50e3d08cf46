package kernels

import "fmt"

// Open gives the device that people name: "auto" or "" for the best there is, "cpu", or "cuda". The error says what to use
// instead.
func Open(name string, cfg Config) (Device, error) {
	switch name {
	case "", "auto", "cpu":
		return NewCPU(cfg)
	case "cuda":
		return nil, fmt.Errorf("device cuda is not in this build: use cpu")
	}
	return nil, fmt.Errorf("device %q is not known: use auto, cpu or cuda", name)
}
