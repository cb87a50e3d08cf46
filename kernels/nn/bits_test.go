package nn_test

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/farandole-ml/farandole/kernels"
	"github.com/farandole-ml/farandole/kernels/nn"
)

// trained gives the bits of all parameters and moments, and the losses, after some steps of two unequal shards.
func trained(t *testing.T, dev kernels.Device, m nn.Model, seq int) []uint32 {
	t.Helper()
	m.Init(5)
	o, err := nn.NewAdamW(dev, m, nn.Hyper{Schedule: nn.Schedule{Peak: 0.01, Warmup: 2, Steps: 4}})
	require.NoError(t, err)
	var bits []uint32
	for step := int64(1); step <= 4; step++ {
		dev.Zero(m.GradBuffer())
		b := m.RandomBatch(5, seq, uint64(step))
		for _, part := range []nn.Batch{rows(b, 0, 2), rows(b, 2, 5)} {
			require.NoError(t, m.Forward(part, 1/float32(5*seq)))
			m.Backward()
			loss, err := m.Loss()
			require.NoError(t, err)
			bits = append(bits, math.Float32bits(float32(loss)))
		}
		_, err := o.Update(step)
		require.NoError(t, err)
	}
	first, second := o.Moments()
	for _, buffer := range []kernels.Buffer{m.ParamBuffer(), first, second} {
		for _, x := range download(t, dev, buffer) {
			bits = append(bits, math.Float32bits(x))
		}
	}
	return bits
}

// trainedBits are the SHA-256 of what training gives in each class: the same on every architecture.
var trainedBits = map[string]string{
	kernels.ClassF32:     "42d223ba28f9328cebe74645b12dcdd1c20057ad2b957cdf4cc3daceb90db536",
	kernels.ClassBF16:    "445ce9e4c1c310a71718732fcf3e8439d8d98693ee3caf0d70bb7551b1986291",
	kernels.ClassBF16AMX: "a9eb6cded0e2103513fc8d08faab637d9039418bae0c40899c0b140c8d53db03",
}

// cpuOf is the configuration of a CPU of a class.
func cpuOf(class string) kernels.Config {
	if class == kernels.ClassBF16AMX {
		return kernels.Config{Threads: 2, Precision: kernels.ClassBF16, Products: kernels.ProductsAMX}
	}
	return kernels.Config{Threads: 2, Precision: class}
}

func TestTrainingHasTheSameBitsOnEveryDevice(t *testing.T) {
	// Odd sizes: no lane, tile or thread comes out even.
	gpt := nn.GPTConfig{Vocab: 131, Context: 20, Layers: 1, Heads: 3, Width: 36}
	mlp := nn.MLPConfig{Widths: []int{67, 45, 10}}
	cnn := nn.CNNConfig{Height: 21, Width: 19, Channels: 2, Filters: []int{17, 9}, Classes: 10}
	run := func(t *testing.T, isa string, threads int, class string) [][]uint32 {
		cfg := cpuOf(class)
		cfg.ISA, cfg.Threads = isa, threads
		dev, err := kernels.NewCPU(cfg)
		require.NoError(t, err)
		require.Equal(t, class, dev.Class())
		defer func() { require.NoError(t, dev.Close()) }()
		return [][]uint32{trained(t, dev, newGPT(t, dev, gpt), 19), trained(t, dev, newMLP(t, dev, mlp), 1), trained(t, dev, newCNN(t, dev, cnn), 1)}
	}
	threads := []int{3, 1}
	if testing.Short() {
		threads = threads[:1]
	}
	for class, sum := range trainedBits {
		want := run(t, "go", 1, class)
		h := sha256.New()
		for _, model := range want {
			require.NoError(t, binary.Write(h, binary.LittleEndian, model))
		}
		require.Equal(t, sum, hex.EncodeToString(h.Sum(nil)), "plain Go in class %s", class)
		for _, isa := range kernels.ISAs() {
			for _, n := range threads {
				t.Run(fmt.Sprintf("%s %s %d", class, isa, n), func(t *testing.T) {
					for i, got := range run(t, isa, n, class) {
						requireBits(t, want[i], got)
					}
				})
			}
		}
	}
}

// countedMemory sums up what is allocated.
type countedMemory struct {
	kernels.Device
	floats int
}

func (d *countedMemory) Alloc(n int) (kernels.Buffer, error) {
	d.floats += n
	return d.Device.Alloc(n)
}

func TestRecomputingHasTheSameBitsAndTakesLessMemory(t *testing.T) {
	cfg := nn.GPTConfig{Vocab: 31, Context: 20, Layers: 4, Heads: 3, Width: 24}
	const rows, seq = 2 + 3, 19 // of a small batch and then a larger one
	for class := range trainedBits {
		cpu, err := kernels.NewCPU(cpuOf(class))
		require.NoError(t, err)
		dev := &countedMemory{Device: cpu}
		kept := newGPT(t, dev, cfg)
		want := trained(t, dev, kept, seq)
		keeping := dev.floats

		dev.floats = 0
		m := newGPT(t, dev, cfg)
		m.Recompute(true)
		model := dev.floats
		requireBits(t, want, trained(t, dev, m, seq))
		const inside = 3 + 1 + 1 + 4 // widths of qkv, attended, mid and fc, and beside them four statistics
		saved := (cfg.Layers - 1) * rows * seq * (inside*cfg.Width + 4)
		require.Equal(t, keeping-saved, dev.floats)
		training := dev.floats - model

		dev.floats = 0
		kept.Recompute(true)
		requireBits(t, want, trained(t, dev, kept, seq))
		require.Equal(t, training, dev.floats, "nothing is left of what was kept")
		m.Recompute(false)
		requireBits(t, want, trained(t, dev, m, seq))
		require.NoError(t, dev.Close())
	}
}

// TestRecomputeBetweenEqualBatches changes its mind without another shape in between.
func TestRecomputeBetweenEqualBatches(t *testing.T) {
	dev := kernels.NewReference()
	cfg := nn.GPTConfig{Vocab: 31, Context: 8, Layers: 3, Heads: 2, Width: 8}
	gradient := func(m *nn.GPT, b nn.Batch) (bits []uint32) {
		dev.Zero(m.GradBuffer())
		require.NoError(t, m.Forward(b, 0.25))
		m.Backward()
		for _, x := range download(t, dev, m.GradBuffer()) {
			bits = append(bits, math.Float32bits(x))
		}
		return bits
	}
	kept, m := newGPT(t, dev, cfg), newGPT(t, dev, cfg)
	shake(t, dev, kept)
	shake(t, dev, m)
	b := m.RandomBatch(2, 7, 3)
	want := gradient(kept, b)
	for _, on := range []bool{true, false, true} {
		m.Recompute(on)
		requireBits(t, want, gradient(m, b))
	}
	require.NoError(t, m.Forward(b, 0.25))
	m.Recompute(false)
	require.PanicsWithValue(t, "nn: Backward without a Forward that had a scale", m.Backward, "its activations are gone")
}

// requireBits names the first difference; the values are too many to print.
func requireBits(t *testing.T, want, got []uint32) {
	t.Helper()
	require.Len(t, got, len(want))
	for i := range want {
		if want[i] != got[i] {
			t.Fatalf("element %d of %d: %v instead of %v", i, len(want), math.Float32frombits(got[i]), math.Float32frombits(want[i]))
		}
	}
}
