package checkpoint

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/sync/errgroup"

	"github.com/farandole-ml/farandole/elastic"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// meta is that of a run named after the test.
func meta(step elastic.Step, g elastic.Generation) Meta {
	return Meta{Job: "job", Step: step, Generation: g, Seed: 7, Shards: 8, Wire: "f32", Class: "f32", Program: "gpt tiny"}
}

// state makes tensors whose content depends on seed alone, among them a scalar, empty ones and odd floats.
func state(seed uint64) []Tensor {
	r := rand.New(rand.NewPCG(seed, 1))
	shapes := []struct {
		name  string
		shape []int
	}{
		{"wte.weight", []int{17, 5}}, {"scale", nil}, {"none", []int{0, 4}}, {"h.0.attn.weight", []int{3, 4, 2}},
		{"bias é", []int{7}}, {"a[0]", []int{1}}, {"last none", []int{0}},
	}
	var out []Tensor
	for _, s := range shapes {
		n := 1
		for _, d := range s.shape {
			n *= d
		}
		t := Tensor{Name: s.name, Shape: s.shape, Data: make([]float32, n)}
		for i := range t.Data {
			t.Data[i] = math.Float32frombits(r.Uint32()) // NaNs and infinities too
		}
		out = append(out, t)
	}
	return out
}

// blank gives tensors of the same shapes, in another order, filled with something else.
func blank(tensors []Tensor) []Tensor {
	out := make([]Tensor, len(tensors))
	for i, t := range tensors {
		data := make([]float32, len(t.Data))
		for j := range data {
			data[j] = -1
		}
		out[len(out)-1-i] = Tensor{Name: t.Name, Shape: t.Shape, Data: data}
	}
	return out
}

// requireSame compares bit by bit, whatever the order.
func requireSame(t require.TestingT, want, got []Tensor) {
	require.Len(t, got, len(want))
	byName := map[string][]float32{}
	for _, g := range got {
		byName[g.Name] = g.Data
	}
	for _, w := range want {
		require.Equal(t, memory(w.Data), memory(byName[w.Name]), w.Name)
	}
}

// save writes all parts, as many processes would, and commits.
func save(t require.TestingT, d *Dir, m Meta, tensors []Tensor, parts int) {
	g, ctx := errgroup.WithContext(context.Background())
	for p := range parts {
		g.Go(func() error { return d.SavePart(ctx, m, tensors, p, parts) })
	}
	g.Go(func() error { return d.Commit(ctx, m, tensors, parts) })
	require.NoError(t, g.Wait())
}

func open(t testing.TB) *Dir {
	d, err := Open(filepath.Join(t.TempDir(), "deep", "checkpoints"), true)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, d.Close()) })
	return d
}

func TestRoundTripOnAnyNumberOfParts(t *testing.T) {
	for _, parts := range []int{1, 2, 3, 7, 150} {
		t.Run(fmt.Sprint(parts), func(t *testing.T) {
			d, want := open(t), state(1)
			save(t, d, meta(10, 3), want, parts)
			require.NoError(t, d.Verify(t.Context(), 10))

			got := blank(want)
			m, err := d.Load(t.Context(), 10, "gpt tiny", got)
			require.NoError(t, err)
			require.Equal(t, meta(10, 3), m)
			requireSame(t, want, got)

			info, err := d.Latest()
			require.NoError(t, err)
			require.Equal(t, Info{Meta: meta(10, 3), Path: filepath.Join(d.Path(), "step-00000010"), Complete: true,
				Bytes: 4 * (17*5 + 1 + 24 + 7 + 1), Tensors: 7, Parts: parts}, info)
		})
	}
}

func TestPartsAreEqualSharesOfTheBytes(t *testing.T) {
	tensors := state(1)
	const total = 17*5 + 1 + 24 + 7 + 1
	for _, parts := range []int{1, 2, 5, total, total + 9} {
		seen := make([]int, len(tensors))
		for p := range parts {
			spans, err := Share(tensors, p, parts)
			require.NoError(t, err)
			n := 0
			for _, s := range spans {
				require.Equal(t, seen[s.Tensor], s.First, "spans of a tensor follow each other")
				seen[s.Tensor] = s.End
				n += s.End - s.First
			}
			require.InDelta(t, float64(total)/float64(parts), n, 1)
		}
		for i, s := range seen {
			require.Equal(t, len(tensors[i].Data), s)
		}
	}
}

func TestSinglePartIsOrdinarySafetensors(t *testing.T) {
	d, want := open(t), state(2)
	save(t, d, meta(1, 1), want, 1)
	requireSafetensors(t, filepath.Join(d.Path(), "step-00000001", "part-0-of-1.safetensors"), want)
}

func TestExportJoins(t *testing.T) {
	for _, parts := range []int{1, 3, 20} {
		d, want := open(t), state(2)
		save(t, d, meta(1, 1), want, parts)
		path := filepath.Join(t.TempDir(), "model.safetensors")
		require.NoError(t, os.WriteFile(path, []byte("old"), 0o600))
		require.NoError(t, d.Export(t.Context(), 1, path))
		requireSafetensors(t, path, want)
		left, err := os.ReadDir(filepath.Dir(path))
		require.NoError(t, err)
		require.Len(t, left, 1, "no unfinished file stays")
	}
}

// requireSafetensors reads path by its header alone, as any reader would.
func requireSafetensors(t *testing.T, path string, want []Tensor) {
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	f, err := os.Open(path)
	require.NoError(t, err)
	defer f.Close()
	h, err := readHeader(f, int64(len(b)))
	require.NoError(t, err)
	data := b[len(h.raw):]
	byName := map[string]entry{}
	for _, e := range h.entries {
		byName[e.name] = e
	}
	require.Len(t, byName, len(want))
	for _, w := range want {
		e := byName[w.Name]
		require.Equal(t, "F32", e.dtype)
		require.Equal(t, fmt.Sprint(w.Shape), shapeString(e.shape))
		require.Equal(t, string(memory(w.Data)), string(data[e.begin:e.end]))
	}
}
