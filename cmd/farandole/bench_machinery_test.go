package main

import (
	"encoding/json"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// The program runs alone and in a job, computing and sleeping, and every figure is there.
func TestE2EBenchStepInJob(t *testing.T) {
	e := newE2E(t)
	cmd := exec.Command(filepath.Join(e.dir, "farandole"), "bench", "step", "--in-job", "--model", "tiny", "--batch", "1", "--seq", "4",
		"--iters", "3", "--warmup", "1", "--threads", "1", "-o", "json")
	out, err := cmd.Output()
	require.NoError(t, err)
	var r machineryReport
	require.NoError(t, json.Unmarshal(out, &r))
	require.Len(t, r.AloneMSPerStep, machineryPairs)
	require.Len(t, r.JobMSPerStep, machineryPairs)
	for i := range machineryPairs {
		require.Positive(t, r.AloneMSPerStep[i])
		require.Positive(t, r.JobMSPerStep[i])
	}
	require.NotZero(t, r.OverheadPercent)
	require.NotZero(t, r.IdleDelayUS)
}
