package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var arm64GPT = flag.String("e2e.arm64-gpt", "", "run the tests of jobs on two architectures; this command is examples/gpt as a program for arm64")

// Workers of both architectures are one group: they add up each other's gradients.
func TestArm64WorkersGiveTheSameWeights(t *testing.T) {
	if *arm64GPT == "" {
		t.Skip("runs programs for arm64: make test-arm64")
	}
	e := newE2E(t)
	const program = "gpt-by-rank" // worker 0 computes on this machine's architecture, the others on arm64
	dir := e.TempDir()
	script := fmt.Sprintf("#!/bin/sh\nif [ \"$LOCAL_RANK\" = 0 ]; then exec %s \"$@\"; fi\n: >%s\nexec %s \"$@\"\n",
		filepath.Join(e.dir, "gpt"), filepath.Join(dir, "arm64"), *arm64GPT)
	require.NoError(t, os.WriteFile(filepath.Join(dir, program), []byte(script), 0o755))
	mixed := &e2e{t, dir}
	require.NoError(t, os.Symlink(filepath.Join(e.dir, "farandole"), filepath.Join(dir, "farandole")))

	for _, class := range []string{"f32", "bf16", "bf16 --products amx"} {
		args := []string{"--model", "tiny", "--steps", "10", "--shards", "4", "--batch", "4", "--seq", "16", "--precision"}
		args = append(args, strings.Fields(class)...)
		want := e.alone(append([]string{"gpt"}, args...)...)
		r := mixed.run([]string{"--workers", "3", "--min", "3"}, append([]string{program}, args...)...)
		require.Zero(t, r.code, "%s", r.out)
		require.Equal(t, want, r.WeightsSHA256, "%s\n%s", class, r.out)
		require.Equal(t, []int{3}, r.WorldSizes, "%s", r.out)
		requireLedger(t, r.summary, 10)
		require.FileExists(t, filepath.Join(dir, "arm64"))
		require.NoError(t, os.Remove(filepath.Join(dir, "arm64")))
	}
}
