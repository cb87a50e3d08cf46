//go:build !cuda

package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
)

// checkGPUs looks for what an NVIDIA driver leaves in the file system. Only a build with the tag cuda asks NVML.
func checkGPUs(context.Context) []finding {
	devices, _ := filepath.Glob("/dev/nvidia[0-9]*")
	driver, err := os.ReadFile("/proc/driver/nvidia/version")
	if len(devices) == 0 && err != nil {
		return []finding{ok("GPUs", "no NVIDIA driver: workers compute on the CPU")}
	}
	version := ""
	if f := strings.Fields(string(driver)); len(f) > 7 {
		version = " " + f[7]
	}
	return []finding{warn("GPUs", "build farandole and the training programs with -tags cuda to use them: `make build-cuda`",
		"NVIDIA driver%s with %s, and this farandole was built without GPUs", version, count(int64(len(devices)), "GPU"))}
}
