package data_test

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/farandole-ml/farandole/worker/data"
)

// write makes files in a new folder and gives the folder.
func write(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		path := filepath.Join(dir, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(content), 0o644))
	}
	return dir
}

func open(t *testing.T, c data.TextConfig) *data.Text {
	t.Helper()
	if c.CacheDir == "" {
		c.CacheDir = t.TempDir()
	}
	text, err := data.OpenText(t.Context(), c)
	require.NoError(t, err)
	return text
}

// all gives the tokens of a text by way of its samples.
func all(t *testing.T, text *data.Text) []int32 {
	t.Helper()
	n := int(text.Tokens()) - 1
	tokens, targets := make([]int32, n), make([]int32, n)
	text.Fill(tokens, targets, 0)
	require.Equal(t, tokens[1:], targets[:n-1])
	return slices.Concat(tokens, targets[n-1:])
}

func TestSamplesAreASequenceAndItsSuccessors(t *testing.T) {
	text := open(t, data.TextConfig{Path: filepath.Join(write(t, map[string]string{"a": "abcdefghij"}), "a")})
	require.Equal(t, 256, text.Vocab())
	require.EqualValues(t, 10, text.Tokens())
	require.EqualValues(t, 3, text.Samples(3))
	require.EqualValues(t, 2, text.Samples(4), "the last sample's last target must exist")
	require.EqualValues(t, 0, text.Samples(10))
	tokens, targets := make([]int32, 3), make([]int32, 3)
	text.Fill(tokens, targets, 2)
	require.Equal(t, []int32{'g', 'h', 'i'}, tokens)
	require.Equal(t, []int32{'h', 'i', 'j'}, targets)
	require.Panics(t, func() { text.Fill(tokens, targets, 3) })
	require.Panics(t, func() { text.Fill(tokens, targets[1:], 0) })
}

func TestFolders(t *testing.T) {
	dir := write(t, map[string]string{
		"b.txt": "B", "a/z.go": "Z", "a/y.txt": "Y", "c.go": "C",
		"binary.go": "x\x00y", "empty.txt": "", ".git/config.txt": "hidden",
	})
	require.NoError(t, os.Symlink(filepath.Join(dir, "b.txt"), filepath.Join(dir, "link.txt")))
	for path, want := range map[string]string{
		dir:                              "Y\x00Z\x00B\x00C",
		filepath.Join(dir, "*.go"):       "Z\x00C",
		filepath.Join(dir, "?.txt"):      "Y\x00B",
		filepath.Join(dir, "a", "[y].*"): "Y",
	} {
		text := open(t, data.TextConfig{Path: path})
		var got []byte
		if text.Tokens() > 1 {
			for _, tok := range all(t, text) {
				got = append(got, byte(tok))
			}
			require.Equal(t, want, string(got), path)
		}
		require.EqualValues(t, len(want), text.Tokens(), path)
	}
}

func TestBadInputsAreOneSentence(t *testing.T) {
	dir := write(t, map[string]string{"binary": "a\x00b", "only/empty.txt": "", "t.txt": "text"})
	for name, c := range map[string]struct {
		cfg  data.TextConfig
		says string
	}{
		"missing":       {data.TextConfig{Path: filepath.Join(dir, "none")}, "no file or folder"},
		"missing tree":  {data.TextConfig{Path: filepath.Join(dir, "none", "*.go")}, "no file or folder"},
		"binary":        {data.TextConfig{Path: filepath.Join(dir, "binary")}, "binary"},
		"empty folder":  {data.TextConfig{Path: filepath.Join(dir, "only")}, "empty or binary"},
		"no match":      {data.TextConfig{Path: filepath.Join(dir, "*.rs")}, "no text"},
		"bad pattern":   {data.TextConfig{Path: filepath.Join(dir, "[")}, "no pattern"},
		"no file":       {data.TextConfig{Path: os.DevNull}, "neither"},
		"bad tokenizer": {data.TextConfig{Path: filepath.Join(dir, "t.txt"), Tokenizer: "gpt3"}, "choose bytes or gpt2"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := data.OpenText(t.Context(), c.cfg)
			var input *data.InputError
			require.ErrorAs(t, err, &input)
			require.ErrorContains(t, err, c.says)
			require.NotContains(t, err.Error(), "\n")
		})
	}
}

func TestDefaultTextIsOpticks(t *testing.T) {
	text := open(t, data.TextConfig{})
	require.Greater(t, text.Tokens(), int64(500_000))
	s, err := text.Decode(all(t, text)[:2000])
	require.NoError(t, err)
	require.Contains(t, s, "OPTICKS")
}

func TestNamesTellTextsAndTokenizersApart(t *testing.T) {
	dir := write(t, map[string]string{"a": "some text", "b": "some text", "c": "other text"})
	name := func(file, tokenizer string) string {
		return open(t, data.TextConfig{Path: filepath.Join(dir, file), Tokenizer: tokenizer}).Name()
	}
	require.Equal(t, name("a", data.Bytes), name("b", data.Bytes))
	require.NotEqual(t, name("a", data.Bytes), name("c", data.Bytes))
	require.NotEqual(t, name("a", data.Bytes), name("a", data.GPT2))
}

func TestGPT2RoundTrip(t *testing.T) {
	dir := write(t, map[string]string{"a.txt": "Hello, world!\n", "b.txt": "Été — 光"})
	text := open(t, data.TextConfig{Path: dir, Tokenizer: data.GPT2})
	require.Equal(t, 50257, text.Vocab())
	tokens := all(t, text)
	require.Equal(t, []int32{15496, 11, 995, 0, 198, 50256}, tokens[:6], "GPT-2's own numbers")
	s, err := text.Decode(tokens)
	require.NoError(t, err)
	require.Equal(t, "Hello, world!\n\n\nÉté — 光", s)
	_, err = text.Decode([]int32{50257})
	require.Error(t, err)
	_, err = text.Decode([]int32{-1})
	require.Error(t, err)

	bytes := open(t, data.TextConfig{Path: dir})
	prompt, err := bytes.Encode(t.Context(), "né")
	require.NoError(t, err)
	require.Equal(t, []int32{'n', 0xc3, 0xa9}, prompt)
	_, err = bytes.Decode([]int32{256})
	require.Error(t, err)
}

func TestCacheIsUsedAndNeverTrusted(t *testing.T) {
	dir, cache := write(t, map[string]string{"a.txt": "It is the cause of colours.\nAnd so on."}), t.TempDir()
	cfg := data.TextConfig{Path: dir, Tokenizer: data.GPT2, CacheDir: cache}
	want := all(t, open(t, cfg))
	files, err := filepath.Glob(filepath.Join(cache, "*"))
	require.NoError(t, err)
	require.Len(t, files, 1, "one file, nothing temporary")
	good, err := os.ReadFile(files[0])
	require.NoError(t, err)

	// Used: a cancelled context stops the encoder, which a good cache does not need.
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = data.OpenText(cancelled, cfg)
	require.NoError(t, err)
	_, err = data.OpenText(cancelled, data.TextConfig{Path: dir, Tokenizer: data.GPT2, CacheDir: t.TempDir()})
	require.ErrorIs(t, err, context.Canceled)

	for i := range good {
		bad := append([]byte{}, good...)
		bad[i] ^= 0x40
		require.NoError(t, os.WriteFile(files[0], bad, 0o644))
		_, err = data.OpenText(cancelled, cfg)
		require.ErrorIs(t, err, context.Canceled, "byte %d changed, and the file was believed", i)
	}
	for _, n := range []int{0, 10, len(good) - 2, len(good) - 1} {
		require.NoError(t, os.WriteFile(files[0], good[:n], 0o644))
		require.Equal(t, want, all(t, open(t, cfg)), "cut to %d bytes", n)
		mended, err := os.ReadFile(files[0])
		require.NoError(t, err)
		require.Equal(t, good, mended)
	}

	blocked := filepath.Join(write(t, map[string]string{"file": ""}), "file", "below")
	require.Equal(t, want, all(t, open(t, data.TextConfig{Path: dir, Tokenizer: data.GPT2, CacheDir: blocked})))
}
