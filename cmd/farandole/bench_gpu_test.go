//go:build cuda

package main

import (
	"encoding/json"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// A GPU's figures are compared with nothing of this machine's processors.
func TestE2EBenchOnAGPU(t *testing.T) {
	e := onGPUs(t)
	run := func(rep any, args ...string) {
		args = append([]string{"bench"}, append(args, "--device", "cuda", "--iters", "1", "-o", "json")...)
		out, err := exec.Command(filepath.Join(e.dir, "farandole"), args...).CombinedOutput()
		require.NoError(t, err, "%s", out)
		require.NoError(t, json.Unmarshal(out, rep), "%s", out)
	}
	var step stepReport
	run(&step, "step", "--model", "tiny", "--batch", "1", "--seq", "8")
	require.Contains(t, step.Device, "GPU 0")
	require.Positive(t, step.TokensPerSecond)
	require.Zero(t, step.PeakGFLOPS)
	require.Zero(t, step.Share)
	require.Zero(t, step.TriadGBs)

	var product gemmReport
	run(&product, "gemm", "-m", "5", "-n", "130", "-k", "17")
	require.Equal(t, 4*130, product.Checked)
	require.Zero(t, product.Wrong)
	require.Len(t, product.Layouts, 4)
	require.Zero(t, product.PeakGFLOPS)
}
