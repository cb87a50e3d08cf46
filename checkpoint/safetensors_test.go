package checkpoint

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// file makes a safetensors file of a header's JSON and so many bytes of data.
func file(json string, data int) []byte {
	b := binary.LittleEndian.AppendUint64(nil, uint64(len(json)))
	return append(append(b, json...), make([]byte, data)...)
}

func TestHeadersThatAreRead(t *testing.T) {
	cases := map[string]struct {
		json string
		data int
	}{
		"nothing":       {`{}`, 0},
		"padding":       {`{}      `, 0},
		"metadata only": {`{"__metadata__":{"format":"pt"}}`, 0},
		"a scalar":      {`{"s":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}`, 4},
		"empty":         {`{"a":{"dtype":"F32","shape":[0,3],"data_offsets":[0,0]},"b":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}`, 2},
		"any order":     {`{"b":{"dtype":"F16","shape":[3],"data_offsets":[8,14]},"a":{"dtype":"I64","shape":[1],"data_offsets":[0,8]}}`, 14},
		"all types": {`{"a":{"dtype":"F64","shape":[1],"data_offsets":[0,8]},"b":{"dtype":"BF16","shape":[1],"data_offsets":[8,10]},
			"c":{"dtype":"I32","shape":[1],"data_offsets":[10,14]},"d":{"dtype":"BOOL","shape":[1],"data_offsets":[14,15]}}`, 15},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			b := file(tc.json, tc.data)
			h, err := readHeader(bytes.NewReader(b), int64(len(b)))
			require.NoError(t, err)
			require.Equal(t, b[:8+len(tc.json)], h.raw)
		})
	}
}

func TestHeadersThatAreRefused(t *testing.T) {
	entry := func(name, rest string) string { return fmt.Sprintf(`{%q:{%s}}`, name, rest) }
	const four = `"dtype":"F32","shape":[1],"data_offsets":[0,4]`
	cases := map[string]struct {
		b   []byte
		say string
	}{
		"too short":         {[]byte("1234567"), "too few"},
		"length beyond":     {binary.LittleEndian.AppendUint64(nil, 1), "beyond"},
		"length huge":       {append(binary.LittleEndian.AppendUint64(nil, 1<<63), 1), "beyond"},
		"not an object":     {file(`[]`, 0), "start with {"},
		"space first":       {file(` {}`, 0), "start with {"},
		"empty":             {file(``, 0), "start with {"},
		"cut":               {file(`{"a":`, 0), "header"},
		"two objects":       {file(`{}{}`, 0), "follows"},
		"NUL padding":       {file("{}\x00", 0), "follows"},
		"not UTF-8":         {file("{\"\xff\":{"+four+"}}", 4), "not UTF-8"},
		"twice":             {file(`{"a":{`+four+`},"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}`, 8), "twice"},
		"twice, escaped":    {file(`{"a":{`+four+`},"\u0061":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}`, 8), "twice"},
		"no name":           {file(entry("", four), 4), "has no name"},
		"control character": {file(`{"\u0000":{`+four+`}}`, 4), "unprintable"},
		"long name":         {file(entry(strings.Repeat("n", 2000), four), 4), "the limit is 1024"},
		"unknown type":      {file(entry("a", `"dtype":"F33","shape":[1],"data_offsets":[0,4]`), 4), "unknown dtype"},
		"no type":           {file(entry("a", `"shape":[1],"data_offsets":[0,4]`), 4), "unknown dtype"},
		"no shape":          {file(entry("a", `"dtype":"F32","data_offsets":[0,4]`), 4), "no shape"},
		"more fields":       {file(entry("a", four+`,"x":1`), 4), "unknown field"},
		"three offsets":     {file(entry("a", `"dtype":"F32","shape":[1],"data_offsets":[0,4,4]`), 4), "3 offsets"},
		"negative offset":   {file(entry("a", `"dtype":"F32","shape":[1],"data_offsets":[-4,0]`), 4), "do not hold"},
		"backwards":         {file(entry("a", `"dtype":"F32","shape":[1],"data_offsets":[4,0]`), 4), "do not hold"},
		"other length":      {file(entry("a", `"dtype":"F32","shape":[2],"data_offsets":[0,4]`), 4), "do not hold"},
		"fraction":          {file(entry("a", `"dtype":"F32","shape":[1.5],"data_offsets":[0,4]`), 4), "entry"},
		"negative shape":    {file(entry("a", `"dtype":"F32","shape":[-1,-1],"data_offsets":[0,4]`), 4), "negative"},
		"overflow":          {file(entry("a", `"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]`), 0), "too large"},
		"overflow to zero":  {file(entry("a", `"dtype":"F32","shape":[9223372036854775807,2,0],"data_offsets":[0,0]`), 0), "too large"},
		"hole":              {file(entry("a", `"dtype":"F32","shape":[1],"data_offsets":[4,8]`), 8), "hole"},
		"rest":              {file(entry("a", four), 8), "the file has 8"},
		"missing data":      {file(entry("a", four), 3), "the file has 3"},
		"overlap": {file(`{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}`, 8),
			"overlap"},
		"many dimensions": {file(entry("a", `"dtype":"F32","shape":[`+strings.Repeat("1,", 70)+`1],"data_offsets":[0,4]`), 4), "dimensions"},
		"long entry":      {file(entry("a", `"dtype":"F32","shape":[`+strings.Repeat("1,", 5000)+`1],"data_offsets":[0,4]`), 4), "the limit is 4096"},
		"odd metadata":    {file(`{"__metadata__":{"a":1}}`, 0), "metadata"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			_, err := readHeader(bytes.NewReader(tc.b), int64(len(tc.b)))
			require.ErrorContains(t, err, tc.say)
		})
	}
}

func TestNamesThatCannotBeSaved(t *testing.T) {
	cases := map[string]struct {
		tensors []Tensor
		say     string
	}{
		"no name":      {[]Tensor{{Data: []float32{1}}}, "no name"},
		"reserved":     {[]Tensor{{Name: metadataKey, Data: []float32{1}}}, "reserved"},
		"slice":        {[]Tensor{{Name: "a[0:1]", Data: []float32{1}}}, "slice"},
		"twice":        {[]Tensor{{Name: "a", Data: []float32{1}}, {Name: "a", Data: []float32{1}}}, "two tensors"},
		"data missing": {[]Tensor{{Name: "a", Shape: []int{2}, Data: []float32{1}}}, "needs 2"},
		"negative":     {[]Tensor{{Name: "a", Shape: []int{-1}, Data: []float32{1}}}, "negative"},
	}
	for name, tc := range cases {
		files := newCrashFS()
		require.ErrorContains(t, inMemory(files).SavePart(t.Context(), meta(1, 1), tc.tensors, 0, 1), tc.say, name)
		require.Zero(t, files.ops, "nothing is written")
	}
	d := inMemory(newCrashFS())
	for _, place := range [][2]int{{0, 0}, {-1, 2}, {2, 2}, {0, -1}, {0, maxParts + 1}} {
		require.Error(t, d.SavePart(t.Context(), meta(1, 1), state(1), place[0], place[1]))
		_, err := Share(state(1), place[0], place[1])
		require.Error(t, err)
	}
	require.ErrorContains(t, d.SavePart(t.Context(), meta(-1, 1), state(1), 0, 1), "negative step")
}

// FuzzHeader: what is accepted tiles the data exactly, and says the same when it is written again.
func FuzzHeader(f *testing.F) {
	f.Add([]byte(`{}`), 0)
	f.Add([]byte(`{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}}  `), 24)
	f.Add([]byte(`{"a":{"dtype":"BF16","shape":[],"data_offsets":[0,2]},"é":{"dtype":"U8","shape":[0],"data_offsets":[2,2]}}`), 2)
	f.Add([]byte(`{"a":{"dtype":"F64","shape":[1],"data_offsets":[-8,0]}}`), 8)
	f.Add([]byte(`{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}`), 0)
	f.Fuzz(func(t *testing.T, json []byte, data int) {
		if data < 0 || data > 1<<16 || len(json) > 1<<16 {
			return
		}
		b := file(string(json), data)
		h, err := readHeader(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			return
		}
		at := int64(0)
		seen := map[string]bool{}
		for _, e := range h.entries {
			require.Equal(t, at, e.begin)
			require.False(t, seen[e.name])
			seen[e.name] = true
			n, err := elementsOf(e.shape)
			require.NoError(t, err)
			at += n * sizeOf[e.dtype]
			require.Equal(t, at, e.end)
		}
		require.Equal(t, int64(data), at)

		again := append([]entry(nil), h.entries...)
		head, err := encodeHeader(h.metadata, again)
		require.NoError(t, err)
		b = append(head, make([]byte, data)...)
		h2, err := readHeader(bytes.NewReader(b), int64(len(b)))
		require.NoError(t, err)
		require.Equal(t, h.entries, h2.entries)
		require.Len(t, h2.metadata, len(h.metadata))
	})
}
