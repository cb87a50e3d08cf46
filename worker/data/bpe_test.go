package data

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestPiecesEncodeAsTheWhole(t *testing.T) {
	words := []string{
		"Light", "end\nBegin", " is", " the", "\n", "\n", "\n\n", " \n", "\t", "  ", "'s", "colour", "é", "日本", "12", "...", "\r\n",
		" ", "A", "—", "\u00a0", "\u2028", "\u0085", "\v",
	}
	split := 0
	rapid.Check(t, func(t *rapid.T) {
		text := strings.Join(rapid.SliceOfN(rapid.SampledFrom(words), 0, 60).Draw(t, "words"), "")
		want, _, err := gpt2().Encode(text)
		require.NoError(t, err)
		var got []uint
		pieces := splitText([]byte(text), 1)
		split += max(0, len(pieces)-1)
		for _, piece := range pieces {
			ids, _, err := gpt2().Encode(string(piece))
			require.NoError(t, err)
			got = append(got, ids...)
		}
		require.Equal(t, want, got, "%q", text)
	})
	require.Positive(t, split, "no text was split: the comparison says nothing")
}

func TestSplitTextKeepsEveryByte(t *testing.T) {
	for text, want := range map[string]int{
		"":                 0,
		"one":              1,
		"a\nb":             2,
		"a\n\nb":           1,
		"a \nb":            1,
		"a\x00b\x00":       4,
		"ab\ncd\n ef\ngh":  3,
		"\nstart":          1,
		"é\nb":             1,
		"a\n\x00\x00\nb\n": 4,
	} {
		pieces := splitText([]byte(text), 1)
		require.Len(t, pieces, want, "%q", text)
		var joined string
		for _, p := range pieces {
			joined += string(p)
		}
		require.Equal(t, text, joined)
	}
}
