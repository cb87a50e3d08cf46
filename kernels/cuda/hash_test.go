//go:build cuda

package cuda

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"hash"
	"math"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/farandole-ml/farandole/kernels"
	"github.com/farandole-ml/farandole/kernels/kernelstest"
	"github.com/farandole-ml/farandole/kernels/nn"
)

// Hashes of what the CPU computes are made on one machine and compared with a GPU's on another.
var (
	expectedHashes = flag.String("gpu.hashes", "", "file of the CPU's hashes to compare with; default: compute them here")
	writeHashes    = flag.String("gpu.write-hashes", "", "file to write the CPU's hashes to")
)

const hashSeeds, hashSize = 3, 70

// hashCases are what is hashed, by name: one operation on random problems, or a few steps of training.
func hashCases() (names []string, cases map[string]func(t testing.TB, d kernels.Device) string) {
	cases = map[string]func(t testing.TB, d kernels.Device) string{}
	add := func(name string, f func(t testing.TB, d kernels.Device) string) {
		names = append(names, name)
		cases[name] = f
	}
	for _, g := range kernelstest.Generators {
		add("kernel/"+g.Name, func(t testing.TB, d kernels.Device) string {
			h := sha256.New()
			for seed := range uint64(hashSeeds) {
				p := g.Make(rand.New(rand.NewPCG(seed, 3)), hashSize)
				for i, x := range p.Run(t, d) {
					if p.Buffers[i].Tolerance != 0 {
						hashFloats(h, x)
					}
				}
			}
			return hex.EncodeToString(h.Sum(nil))
		})
	}
	small := nn.GPTConfig{Vocab: 131, Context: 20, Layers: 2, Heads: 3, Width: 36}
	add("steps/gpt", func(t testing.TB, d kernels.Device) string {
		m, err := nn.NewGPT(d, small)
		require.NoError(t, err)
		return hashSteps(t, d, m, 3, 3, 19)
	})
	add("steps/mlp", func(t testing.TB, d kernels.Device) string {
		m, err := nn.NewMLP(d, nn.MLPConfig{Widths: []int{67, 45, 10}})
		require.NoError(t, err)
		return hashSteps(t, d, m, 3, 5, 1)
	})
	add("steps/cnn", func(t testing.TB, d kernels.Device) string {
		m, err := nn.NewCNN(d, nn.CNNConfig{Height: 11, Width: 9, Channels: 2, Filters: []int{17, 9}, Classes: 10})
		require.NoError(t, err)
		return hashSteps(t, d, m, 3, 5, 1)
	})
	add(largeSteps, func(t testing.TB, d kernels.Device) string {
		m, err := nn.New(d, "gpt2-124m")
		require.NoError(t, err)
		return hashSteps(t, d, m, 1, 1, 1024)
	})
	return names, cases
}

// largeSteps is a step of GPT-2 124M: shapes that people train. The emulator would take an hour.
const largeSteps = "steps/gpt2-124m"

// hashSteps trains and hashes losses, the last gradient, parameters and moments: what differs first says where to look.
func hashSteps(t testing.TB, d kernels.Device, m nn.Model, steps, batch, seq int) string {
	t.Helper()
	m.Init(5)
	o, err := nn.NewAdamW(d, m, nn.Hyper{Schedule: nn.Schedule{Peak: 0.01, Warmup: 2, Steps: int64(steps)}})
	require.NoError(t, err)
	var all []string
	add := func(what string, x []float32) {
		h := sha256.New()
		hashFloats(h, x)
		all = append(all, what+" "+hex.EncodeToString(h.Sum(nil)))
	}
	for step := range int64(steps) {
		d.Zero(m.GradBuffer())
		b := m.RandomBatch(batch, seq, uint64(step+1))
		require.NoError(t, m.Forward(b, 1/float32(batch*seq)))
		m.Backward()
		loss, err := m.Loss()
		require.NoError(t, err)
		add("loss", []float32{float32(loss)})
		_, err = o.Update(step + 1)
		require.NoError(t, err)
	}
	first, second := o.Moments()
	buffers := []kernels.Buffer{m.GradBuffer(), m.ParamBuffer(), first, second}
	for i, what := range []string{"gradient", "parameters", "moments", "second moments"} {
		x := make([]float32, buffers[i].Len())
		require.NoError(t, d.Download(x, buffers[i]))
		add(what, x)
	}
	return strings.Join(all, "\n")
}

// hashFloats adds the bits of x, all NaNs alike: class f32 leaves open which.
func hashFloats(h hash.Hash, x []float32) {
	part := make([]byte, 0, 1<<16)
	for len(x) > 0 {
		n := min(len(x), cap(part)/4)
		part = part[:0]
		for _, v := range x[:n] {
			if v != v {
				v = float32(math.NaN())
			}
			part = binary.LittleEndian.AppendUint32(part, math.Float32bits(v))
		}
		h.Write(part)
		x = x[n:]
	}
}

// TestHashes compares with what the CPU computed: here, or elsewhere and in a file.
func TestHashes(t *testing.T) {
	names, cases := hashCases()
	cpu := newCPU(t)
	want := func(t *testing.T, name string) string { return cases[name](t, cpu) }
	if *expectedHashes != "" {
		all := map[string]string{}
		data, err := os.ReadFile(*expectedHashes)
		require.NoError(t, err)
		require.NoError(t, json.Unmarshal(data, &all), *expectedHashes)
		want = func(t *testing.T, name string) string {
			require.Contains(t, all, name, "%s is of another version", *expectedHashes)
			return all[name]
		}
	}
	gpu := newDevice(t)
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			if name == largeSteps && (strings.Contains(gpu.Name(), "Emulated") || *tiny) {
				t.Skip("too large for the emulator")
			}
			expected := want(t, name)
			got := cases[name](t, gpu)
			require.Equal(t, expected, got, "%s on %s, against the CPU", name, gpu.Name())
		})
	}
}

// TestWriteHashes needs no GPU.
func TestWriteHashes(t *testing.T) {
	if *writeHashes == "" {
		t.Skip("-gpu.write-hashes names no file")
	}
	names, cases := hashCases()
	cpu := newCPU(t)
	all := map[string]string{}
	for _, name := range names {
		all[name] = cases[name](t, cpu)
		fmt.Println(name, all[name])
	}
	data, err := json.MarshalIndent(all, "", "  ")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(*writeHashes, append(data, '\n'), 0o644))
}

func newCPU(t testing.TB) kernels.Device {
	t.Helper()
	cpu, err := kernels.NewCPU(kernels.Config{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, cpu.Close()) })
	return cpu
}
