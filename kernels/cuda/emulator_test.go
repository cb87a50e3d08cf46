//go:build cuda

package cuda

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"gorgonia.org/cu"
)

// TestEmulatorRefusesOtherPTX: PTX and host build of different sources must not go unnoticed, or no test here would say anything.
func TestEmulatorRefusesOtherPTX(t *testing.T) {
	needEmulator(t)
	d := newDevice(t)
	image, err := ptx.ReadFile("ptx/kernels.sm_80.ptx")
	require.NoError(t, err)
	good := string(image)
	load := func(text string) error {
		return d.do(func() error {
			m, err := cu.LoadData(text)
			if err == nil {
				err = m.Unload()
			}
			return err
		})
	}
	require.NoError(t, load(good))
	for name, change := range map[string][2]string{
		"size of a parameter":   {".param .u64 add_param_3", ".param .u32 add_param_3"},
		"one more parameter":    {".param .u64 add_param_0,", ".param .u64 add_param_0, .param .u64 more,"},
		"unknown kernel":        {".entry add(", ".entry subtract("},
		"threads of a block":    {".maxntid 256, 1, 1", ".maxntid 512, 1, 1"},
		"newer GPU":             {".target sm_80", ".target sm_90"},
		"no version, so no PTX": {".version", "// .version"},
	} {
		changed := strings.Replace(good, change[0], change[1], 1)
		require.NotEqual(t, good, changed, name)
		require.Error(t, load(changed), name)
	}
}

// TestEmulatorRefusesBadCalls: what a GPU leaves undefined, or finds late.
func TestEmulatorRefusesBadCalls(t *testing.T) {
	needEmulator(t)
	foreign := make([]float32, 4)
	for name, call := range map[string]func(d *device, at uint64){
		"large block":         func(d *device, at uint64) { d.launch("x", kAdd, line(1), line(257), 0, at, at, at, 1) },
		"much shared memory":  func(d *device, at uint64) { d.launch("x", kAdd, line(1), line(1), defaultShared+1, at, at, at, 1) },
		"grid too high":       func(d *device, at uint64) { d.launch("x", kAdd, dim{1, 1 << 16, 1}, line(1), 0, at, at, at, 1) },
		"store past the end":  func(d *device, at uint64) { d.launch("x", kScale, line(1), line(1), 0, at+1<<9, float(2), 4) },
		"zeros past the end":  func(d *device, at uint64) { d.put("x", fillZeros).set(at, 1<<10) },
		"copy past the end":   func(d *device, at uint64) { d.put("x", copyOn).set(at, at, 1<<10) },
		"copy from nowhere":   func(d *device, at uint64) { d.put("x", copyOn).set(at, 64, 4) },
		"unregistered memory": func(d *device, at uint64) { d.transfer("x", copyIn, at, foreign) },
	} {
		t.Run(name, func(t *testing.T) {
			if !emulated(t) {
				return
			}
			d := newDevice(t)
			b := uploaded(t, d, 1, 2, 3, 4)
			require.NoError(t, d.Sync())
			call(d, address(b))
			require.Error(t, d.Sync())
		})
	}
}
