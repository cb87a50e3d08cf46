package main

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const stepScript = `case "$FARANDOLE_CUDA_WGMMA" in 0) class=bf16-mma-sm_90;; *) class=bf16-wgmma-sm_90;; esac
echo "{\"class\": \"$class\", \"ms_per_step\": 5, \"tokens_per_second\": 7, \"gflops\": 2000}"`

// TestWithoutWGMMA: the steps say which class ran, and both kinds of products are there to compare.
func TestWithoutWGMMA(t *testing.T) {
	size := batch{32, 1024}
	r := newReport("v", options{}, time.Now())
	b := testBench(t)
	b.programs = t.TempDir()
	script(t, b.programs, "farandole", stepScript)
	with, without := steps("bf16", size), withoutWGMMA(steps("bf16", size, noWGMMA))
	require.Contains(t, with(t.Context(), b, r).Note, "class bf16-wgmma-sm_90: 5.0 ms")
	require.Equal(t, "bf16-wgmma-sm_90", r.ClassBF16)
	require.Contains(t, without(t.Context(), b, r).Note, "class bf16-mma-sm_90: 5.0 ms")
	require.Equal(t, "bf16-wgmma-sm_90", r.ClassBF16, "that is what runs without the setting")
	require.Contains(t, r.Figures, "step bf16, 32 × 1024")
	require.Contains(t, r.Figures, "step bf16, 32 × 1024, FARANDOLE_CUDA_WGMMA=0")
	require.Empty(t, b.env)
	r.Device = "a GPU"
	require.Contains(t, r.markdown(), "Class of products in bfloat16: bf16-wgmma-sm_90.")

	r.ClassBF16 = "bf16-mma-sm_80"
	require.Equal(t, empty, without(t.Context(), b, r).Verdict)
}
