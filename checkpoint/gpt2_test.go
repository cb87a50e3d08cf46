package checkpoint

import (
	"context"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// twoWeights is a model of one matrix that files have transposed, an embedding and a bias.
func twoWeights() []Weight {
	return []Weight{
		{Tensor{"wte.weight", []int{2, 3}, []float32{0, 1, 2, 3, 4, 5}}, false},
		{Tensor{"h.0.attn.c_attn.weight", []int{3, 2}, []float32{10, 11, 12, 13, 14, 15}}, true},
		{Tensor{"h.0.attn.c_attn.bias", []int{3}, []float32{0.5, -2, 1024}}, false},
	}
}

// emptied is the same without values.
func emptied() []Weight {
	weights := twoWeights()
	for i := range weights {
		weights[i].Data = make([]float32, len(weights[i].Data))
	}
	return weights
}

// rawFile writes entries and data as a safetensors file, whatever is wrong with them.
func rawFile(t *testing.T, header string, data []byte) string {
	t.Helper()
	b := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
	path := filepath.Join(t.TempDir(), "x.safetensors")
	require.NoError(t, os.WriteFile(path, append(append(b, header...), data...), 0o644))
	return path
}

func load(t *testing.T, path string, weights []Weight) error {
	t.Helper()
	f, err := OpenGPT2(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Load(t.Context(), weights)
}

func TestGPT2FilesComeBackInEveryType(t *testing.T) {
	for _, dtype := range DTypes() {
		path, again := filepath.Join(t.TempDir(), "x"), filepath.Join(t.TempDir(), "again")
		require.NoError(t, WriteGPT2(t.Context(), path, dtype, twoWeights()))
		got := emptied()
		require.NoError(t, load(t, path, got))
		require.Equal(t, twoWeights(), got, dtype)
		require.NoError(t, WriteGPT2(t.Context(), again, dtype, got))
		want, err := os.ReadFile(path)
		require.NoError(t, err)
		bytes, err := os.ReadFile(again)
		require.NoError(t, err)
		require.Equal(t, want, bytes)
	}
	require.ErrorContains(t, WriteGPT2(t.Context(), filepath.Join(t.TempDir(), "x"), "int4", twoWeights()), "choose one of f32, bf16, f16")
}

// The order of a transposed matrix in the file is what Hugging Face's Conv1D says: [in, out].
func TestGPT2FilesHaveMatricesAsConv1D(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x")
	require.NoError(t, WriteGPT2(t.Context(), path, "f32", twoWeights()))
	f, err := OpenGPT2(path)
	require.NoError(t, err)
	defer f.Close()
	require.Equal(t, []int64{2, 3}, f.Shape("h.0.attn.c_attn.weight"))
	plain := []Weight{twoWeights()[0], {Tensor{"h.0.attn.c_attn.weight", []int{2, 3}, make([]float32, 6)}, false}, twoWeights()[2]}
	require.NoError(t, f.Load(t.Context(), plain))
	require.Equal(t, []float32{10, 12, 14, 11, 13, 15}, plain[1].Data)
}

func TestTransposeOfManySquares(t *testing.T) {
	const rows, columns = 71, 37
	src, dst := make([]float32, rows*columns), make([]float32, rows*columns)
	for i := range src {
		src[i] = float32(i)
	}
	transpose(dst, src, rows, columns)
	for i := range rows {
		for j := range columns {
			require.Equal(t, src[i*columns+j], dst[j*rows+i])
		}
	}
}

func TestBadGPT2FilesSayWhatIsWrong(t *testing.T) {
	const (
		wte  = `"wte.weight":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}`
		w    = `"h.0.attn.c_attn.weight":{"dtype":"F32","shape":[2,3],"data_offsets":[24,48]}`
		bias = `"h.0.attn.c_attn.bias":{"dtype":"F32","shape":[3],"data_offsets":[48,60]}`
		good = "{" + wte + "," + w + "," + bias + "}"
	)
	require.NoError(t, load(t, rawFile(t, good, make([]byte, 60)), emptied()), "the file that is spoiled below")
	head := make([]byte, 84)
	head[60] = 1
	for name, c := range map[string]struct {
		header string
		data   []byte
		says   string
	}{
		"missing":        {"{" + wte + "," + w + "}", make([]byte, 48), `has no tensor "h.0.attn.c_attn.bias"`},
		"another":        {"{" + wte + "," + w + "," + bias + `,"h.1.x":{"dtype":"F32","shape":[],"data_offsets":[60,64]}}`, make([]byte, 64), `has the tensor "h.1.x"`},
		"shape":          {"{" + wte + `,"h.0.attn.c_attn.weight":{"dtype":"F32","shape":[3,2],"data_offsets":[24,48]},` + bias + "}", make([]byte, 60), "has shape [3 2], and this model's has [2 3]"},
		"type":           {"{" + wte + "," + w + `,"h.0.attn.c_attn.bias":{"dtype":"I32","shape":[3],"data_offsets":[48,60]}}`, make([]byte, 60), "is I32"},
		"head":           {"{" + wte + "," + w + "," + bias + `,"lm_head.weight":{"dtype":"F32","shape":[2,3],"data_offsets":[60,84]}}`, head, "output head of its own"},
		"head's shape":   {"{" + wte + "," + w + "," + bias + `,"lm_head.weight":{"dtype":"F32","shape":[6],"data_offsets":[60,84]}}`, head, `"lm_head.weight" has shape [6]`},
		"truncated":      {good, make([]byte, 59), "the entries have 60 bytes and the file has 59"},
		"long":           {good, make([]byte, 61), "the entries have 60 bytes and the file has 61"},
		"twice":          {"{" + wte + "," + wte + "}", make([]byte, 24), `"wte.weight" twice`},
		"twice, prefix":  {"{" + wte + `,"transformer.wte.weight":{"dtype":"F32","shape":[2,3],"data_offsets":[24,48]}}`, make([]byte, 48), `"wte.weight" twice`},
		"overlap":        {"{" + wte + `,"x":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}}`, make([]byte, 24), "an overlap or a hole"},
		"no JSON":        {"garbage", nil, "does not start with {"},
		"no dtype known": {`{"x":{"dtype":"F4","shape":[],"data_offsets":[0,0]}}`, nil, "unknown dtype"},
	} {
		t.Run(name, func(t *testing.T) {
			err := load(t, rawFile(t, c.header, c.data), emptied())
			require.ErrorContains(t, err, c.says)
			require.NotContains(t, err.Error(), "\n")
			require.Contains(t, err.Error(), "x.safetensors")
		})
	}
	huge := filepath.Join(t.TempDir(), "huge")
	require.NoError(t, os.WriteFile(huge, binary.LittleEndian.AppendUint64(nil, 1<<62), 0o644))
	_, err := OpenGPT2(huge)
	require.ErrorContains(t, err, "the header's length")
	_, err = OpenGPT2(filepath.Dir(huge))
	require.ErrorContains(t, err, "is a directory")
	_, err = OpenGPT2(huge + "x")
	require.ErrorContains(t, err, "there is no file")
}

// Masks are no weights, a prefix is no part of a name, and a head that is the embedding is not kept.
func TestGPT2FilesMayHaveMore(t *testing.T) {
	header := `{"transformer.wte.weight":{"dtype":"BF16","shape":[2,3],"data_offsets":[0,12]},` +
		`"transformer.h.0.attn.c_attn.weight":{"dtype":"F16","shape":[2,3],"data_offsets":[12,24]},` +
		`"transformer.h.0.attn.c_attn.bias":{"dtype":"F32","shape":[3],"data_offsets":[24,36]},` +
		`"transformer.h.0.attn.bias":{"dtype":"BOOL","shape":[1,1,2,2],"data_offsets":[36,40]},` +
		`"transformer.h.0.attn.masked_bias":{"dtype":"F32","shape":[],"data_offsets":[40,44]},` +
		`"lm_head.weight":{"dtype":"BF16","shape":[2,3],"data_offsets":[44,56]}}`
	data := make([]byte, 56)
	binary.LittleEndian.PutUint16(data[2:], 0x3f80)  // 1 in BF16, element 1 of the embedding
	binary.LittleEndian.PutUint16(data[46:], 0x3f80) // and of the head
	binary.LittleEndian.PutUint16(data[14:], 0xc000) // -2 in F16, [0,1] of the file's matrix
	got := emptied()
	require.NoError(t, load(t, rawFile(t, header, data), got))
	require.Equal(t, []float32{0, 1, 0, 0, 0, 0}, got[0].Data)
	require.Equal(t, []float32{0, 0, -2, 0, 0, 0}, got[1].Data)
	data[44] = 1
	require.ErrorContains(t, load(t, rawFile(t, header, data), got), "output head of its own")
}

func TestGPT2WritersRefuse(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x")
	require.NoError(t, os.WriteFile(path, []byte("old"), 0o600))
	large := twoWeights()
	large[2].Data[1] = -65520
	require.ErrorContains(t, WriteGPT2(t.Context(), path, "f16", large), "too large for f16")
	ctx, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("the user left")
	cancel(cause)
	require.ErrorIs(t, WriteGPT2(ctx, path, "f32", large), cause)
	require.ErrorContains(t, WriteGPT2(t.Context(), path, "f32", []Weight{{Tensor{"x", []int{1}, []float32{1}}, true}}), "cannot be transposed")
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, "old", string(b), "what was there stays")
	left, err := os.ReadDir(filepath.Dir(path))
	require.NoError(t, err)
	require.Len(t, left, 1, "no temporary file stays")
	large[2].Data[1] = 65519
	require.NoError(t, WriteGPT2(t.Context(), path, "f16", large), "rounds to the largest float16")
}

func TestExportGPT2LeavesTheOptimizerBehind(t *testing.T) {
	d, err := Open(t.TempDir(), true)
	require.NoError(t, err)
	defer d.Close()
	var tensors []Tensor
	for _, w := range twoWeights() {
		tensors = append(tensors, w.Tensor)
	}
	tensors = append(tensors, Tensor{"adam.m", []int{15}, make([]float32, 15)})
	for part := range 3 {
		require.NoError(t, d.SavePart(t.Context(), Meta{Step: 1}, tensors, part, 3))
	}
	require.NoError(t, d.Commit(t.Context(), Meta{Step: 1}, tensors, 3))

	path, direct := filepath.Join(t.TempDir(), "x"), filepath.Join(t.TempDir(), "direct")
	require.NoError(t, d.ExportGPT2(t.Context(), 1, path, "f32", emptied()))
	require.NoError(t, WriteGPT2(t.Context(), direct, "f32", twoWeights()))
	want, err := os.ReadFile(direct)
	require.NoError(t, err)
	got, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, want, got)

	other := emptied()
	other[0].Shape = []int{3, 2}
	require.ErrorContains(t, d.ExportGPT2(t.Context(), 1, path, "f32", other), "wte.weight")
	require.ErrorIs(t, d.ExportGPT2(t.Context(), 2, path, "f32", other), ErrNone)
}

func FuzzGPT2File(f *testing.F) {
	dir := f.TempDir()
	path := filepath.Join(dir, "x")
	require.NoError(f, WriteGPT2(f.Context(), path, "bf16", twoWeights()))
	b, err := os.ReadFile(path)
	require.NoError(f, err)
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		path := filepath.Join(t.TempDir(), "x")
		require.NoError(t, os.WriteFile(path, b, 0o644))
		g, err := OpenGPT2(path)
		if err != nil {
			return
		}
		defer g.Close()
		if g.Load(t.Context(), emptied()) == nil {
			require.NotNil(t, g.Shape("wte.weight"))
		}
	})
}
