package worker

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/farandole-ml/farandole/elastic"
)

func TestConfigFromEnv(t *testing.T) {
	for k, v := range map[string]string{
		"FARANDOLE_COORDINATOR": "127.0.0.1:7", "FARANDOLE_JOB": "j", "FARANDOLE_MEMBER": "m", "FARANDOLE_HOST": "h",
		"FARANDOLE_LOCAL_RANK": "2", "LOCAL_WORLD_SIZE": "4", "FARANDOLE_LISTEN": "127.0.0.1:8", "FARANDOLE_LIVENESS": "300ms",
		"FARANDOLE_CHECKPOINT_DIR": "d", "FARANDOLE_CHECKPOINT_EVERY": "5", "FARANDOLE_REDUCE": "ring", "FARANDOLE_WIRE": "f32",
		"FARANDOLE_GPU_REDUCE": "host", "FARANDOLE_THREADS": "3", "FARANDOLE_PIN": "true", "FARANDOLE_DEVICE": "cpu", "FARANDOLE_NAN": "skip", "FARANDOLE_FAULT": "crash:before-reduce@20#1",
	} {
		t.Setenv(k, v)
	}
	c, err := ConfigFromEnv()
	require.NoError(t, err)
	c.Logger = nil
	require.Equal(t, Config{
		Coordinator: "127.0.0.1:7", Job: "j", Member: "m", Host: "h", LocalRank: 2, LocalWorld: 4, Listen: "127.0.0.1:8",
		Liveness: 300 * time.Millisecond, CheckpointDir: "d", CheckpointEvery: 5, Reduce: ReduceRing, Wire: "f32", Threads: 3, Pin: true,
		GPUReduce: GPUReduceHost, Device: "cpu", NaN: NaNSkip, Fault: &Fault{ActionCrash, PointReduce, 20, 1},
	}, c)
}

func TestConfigRefuses(t *testing.T) {
	for _, c := range []struct{ name, value, text string }{
		{"FARANDOLE_WIRE", "fp8", "wire"},
		{"FARANDOLE_REDUCE", "star", "reduce"},
		{"FARANDOLE_GPU_REDUCE", "pigeon", "use auto, ipc, nccl or host"},
		{"FARANDOLE_NAN", "ignore", "NaN"},
		{"FARANDOLE_LIVENESS", "soon", "duration"},
		{"FARANDOLE_LIVENESS", "-1s", "duration"},
		{"FARANDOLE_THREADS", "two", "whole number"},
		{"FARANDOLE_PIN", "hard", "true or false"},
		{"FARANDOLE_CHECKPOINT_EVERY", "-1", "whole number"},
		{"FARANDOLE_COORDINATOR", "127.0.0.1:7", "FARANDOLE_JOB"},
		{"FARANDOLE_FAULT", "crash", "ACTION:POINT@STEP"},
		{"FARANDOLE_LOG", "loud", "debug"},
	} {
		t.Run(c.name+"="+c.value, func(t *testing.T) {
			t.Setenv(c.name, c.value)
			_, err := ConfigFromEnv()
			require.ErrorContains(t, err, c.text)
			require.Equal(t, 2, ExitCode(err))
		})
	}
}

func TestRoundedWireNeedsTheTree(t *testing.T) {
	t.Setenv("FARANDOLE_WIRE", "bf16")
	_, err := ConfigFromEnv()
	require.NoError(t, err)
	t.Setenv("FARANDOLE_REDUCE", "ring")
	_, err = ConfigFromEnv()
	require.ErrorContains(t, err, "tree")
	require.Equal(t, 2, ExitCode(err))
}

func TestGPUReduceNeedsTheTree(t *testing.T) {
	const whole, tree = "gpu-reduce nccl works with reduce tree and wire f32 alone", "gpu-reduce ipc works with reduce tree alone"
	for _, c := range []struct{ how, name, value, says string }{
		{"nccl", "FARANDOLE_WIRE", "f32", ""}, {"nccl", "FARANDOLE_WIRE", "bf16", whole}, {"nccl", "FARANDOLE_REDUCE", "ring", whole},
		{"ipc", "FARANDOLE_WIRE", "bf16", ""}, {"ipc", "FARANDOLE_REDUCE", "ring", tree},
	} {
		t.Run(c.how+" "+c.value, func(t *testing.T) {
			t.Setenv("FARANDOLE_GPU_REDUCE", c.how)
			t.Setenv(c.name, c.value)
			_, err := ConfigFromEnv()
			if c.says == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, c.says)
			require.Equal(t, 2, ExitCode(err))
		})
	}
}

func TestParseFault(t *testing.T) {
	f, err := ParseFault("hang:sync@3")
	require.NoError(t, err)
	require.Equal(t, &Fault{ActionHang, PointSync, 3, -1}, f)
	require.False(t, f.hits(PointSync, 2, 0))
	require.True(t, f.hits(PointSync, 9, 5), "a point off the step's path strikes at the first chance")
	f, err = ParseFault("crash:after-apply@3#2")
	require.NoError(t, err)
	require.False(t, f.hits(PointApplied, 4, 2))
	require.False(t, f.hits(PointApplied, 3, 1))
	require.True(t, f.hits(PointApplied, 3, 2))
	for _, bad := range []string{"", "crash", "crash:sync", "crash:nowhere@1", "explode:sync@1", "crash:sync@x", "crash:sync@1#x", "nan:sync@1", "crash:sync@-1"} {
		_, err := ParseFault(bad)
		require.Error(t, err, bad)
	}
	require.Zero(t, testing.AllocsPerRun(100, func() { new(Session).strike(PointReduce, elastic.Step(1), 0) }))
}
