package main

import (
	"io"
	"testing"

	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"
)

func TestBenchRefusesDevices(t *testing.T) {
	for name, c := range map[string]struct {
		command func() *cobra.Command
		args    []string
		says    string
	}{
		"unknown, step":    {newBenchStepCommand, []string{"--device", "tpu"}, `--device wants cpu or cuda, not "tpu"`},
		"unknown, gemm":    {newBenchGEMMCommand, []string{"--device", "auto"}, `--device wants cpu or cuda, not "auto"`},
		"a job on the GPU": {newBenchStepCommand, []string{"--device", "cuda", "--in-job"}, "leave --device,"},
		"pinned, in a job": {newBenchStepCommand, []string{"--pin", "--in-job"}, "leave --device,"},
		"a pinned GPU":     {newBenchGEMMCommand, []string{"--device", "cuda", "--pin"}, "--isa and --pin are for the CPU"},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := c.command()
			cmd.SetArgs(c.args)
			cmd.SetOut(io.Discard)
			cmd.SetErr(io.Discard)
			var x *exitError
			err := cmd.Execute()
			require.ErrorAs(t, err, &x)
			require.Equal(t, exitUsage, x.code)
			require.ErrorContains(t, err, c.says)
		})
	}
}
