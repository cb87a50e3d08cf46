package checkpoint

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"unicode/utf8"
)

// A safetensors file is an 8-byte little-endian length, a JSON object of that length (padded with spaces), and the
// tensors' bytes, little-endian and row-major, without gaps. See https://github.com/huggingface/safetensors.

const metadataKey = "__metadata__"

// maxEntry bounds the JSON of one entry before it is decoded; a name is bounded by maxName.
const maxEntry = 4096

// sizeOf gives the bytes of one element of each dtype that a header may name.
var sizeOf = map[string]int64{
	"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1,
	"I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1,
}

// entry is one tensor of a safetensors file; begin and end count from the end of the header.
type entry struct {
	name       string
	dtype      string
	shape      []int64
	begin, end int64
}

// header is the head of a safetensors file; entries are in the order of their bytes.
type header struct {
	metadata map[string]string
	entries  []entry
	raw      []byte // the encoded header, with its length: the file's first bytes
}

type jsonEntry struct {
	DType   string  `json:"dtype"`
	Shape   []int64 `json:"shape"`
	Offsets []int64 `json:"data_offsets"`
}

// encodeHeader lays the entries end to end, filling in begin and end, and gives the file's first bytes. Equal arguments give equal bytes.
func encodeHeader(metadata map[string]string, entries []entry) ([]byte, error) {
	var b bytes.Buffer
	b.Write(make([]byte, 8))
	b.WriteByte('{')
	field := func(key string, value any) error {
		k, err := json.Marshal(key)
		if err != nil {
			return err
		}
		v, err := json.Marshal(value)
		if err != nil {
			return err
		}
		if b.Len() > 9 {
			b.WriteByte(',')
		}
		b.Write(k)
		b.WriteByte(':')
		b.Write(v)
		return nil
	}
	if len(metadata) > 0 {
		if err := field(metadataKey, metadata); err != nil { // json.Marshal sorts the keys
			return nil, err
		}
	}
	at := int64(0)
	for i := range entries {
		e := &entries[i]
		n, err := elementsOf(e.shape)
		if err != nil {
			return nil, err
		}
		e.begin, e.end = at, at+n*sizeOf[e.dtype]
		at = e.end
		shape := e.shape
		if shape == nil {
			shape = []int64{} // a scalar's shape is [], not null
		}
		if err := field(e.name, jsonEntry{e.dtype, shape, []int64{e.begin, e.end}}); err != nil {
			return nil, err
		}
	}
	b.WriteByte('}')
	for b.Len()%8 != 0 {
		b.WriteByte(' ')
	}
	if b.Len()-8 > maxHeader {
		return nil, fmt.Errorf("the header has %d bytes, and the limit is %d", b.Len()-8, maxHeader)
	}
	binary.LittleEndian.PutUint64(b.Bytes(), uint64(b.Len()-8))
	return b.Bytes(), nil
}

// readHeader reads and checks the header of a file of the given size.
func readHeader(r io.ReaderAt, size int64) (*header, error) {
	var length [8]byte
	if size < 8 {
		return nil, fmt.Errorf("%d bytes are too few for a safetensors file", size)
	}
	if err := readFull(r, length[:], 0); err != nil {
		return nil, err
	}
	n := binary.LittleEndian.Uint64(length[:])
	if n > maxHeader || int64(n) > size-8 {
		return nil, fmt.Errorf("the header's length %d is beyond the file's %d bytes or the limit of %d", n, size, maxHeader)
	}
	raw := make([]byte, 8+n)
	if err := readFull(r, raw, 0); err != nil {
		return nil, err
	}
	h, err := parseHeader(raw[8:], size-8-int64(n))
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(length[:], raw[:8]) {
		return nil, errors.New("the file changed while it was read")
	}
	h.raw = raw
	return h, nil
}

// parseHeader decodes a header's JSON and checks that its entries tile a data area of dataBytes exactly.
func parseHeader(b []byte, dataBytes int64) (*header, error) {
	if len(b) == 0 || b[0] != '{' {
		return nil, errors.New("the header does not start with {")
	}
	if !utf8.Valid(b) {
		return nil, errors.New("the header is not UTF-8")
	}
	h := &header{}
	seen := map[string]bool{}
	dec := json.NewDecoder(bytes.NewReader(b))
	if _, err := dec.Token(); err != nil {
		return nil, fmt.Errorf("header: %w", err)
	}
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return nil, fmt.Errorf("header: %w", err)
		}
		name := key.(string) // inside an object every key is a string, or Token fails
		if seen[name] {
			return nil, fmt.Errorf("the header has %q twice", name)
		}
		seen[name] = true
		if name == metadataKey {
			if err := dec.Decode(&h.metadata); err != nil {
				return nil, fmt.Errorf("header metadata: %w", err)
			}
			continue
		}
		if len(h.entries) >= maxTensors {
			return nil, fmt.Errorf("more than %d entries", maxTensors)
		}
		var raw json.RawMessage
		if err := dec.Decode(&raw); err != nil {
			return nil, fmt.Errorf("header: %w", err)
		}
		e, err := parseEntry(name, raw)
		if err != nil {
			return nil, err
		}
		h.entries = append(h.entries, e)
	}
	if _, err := dec.Token(); err != nil {
		return nil, fmt.Errorf("header: %w", err)
	}
	if rest := bytes.TrimRight(b[dec.InputOffset():], " "); len(rest) != 0 {
		return nil, errors.New("something follows the header's JSON")
	}
	return h, checkTiling(h.entries, dataBytes)
}

func parseEntry(name string, raw []byte) (entry, error) {
	if err := checkName(name); err != nil {
		return entry{}, err
	}
	if len(raw) > maxEntry {
		return entry{}, fmt.Errorf("entry %q has %d bytes of JSON, and the limit is %d", name, len(raw), maxEntry)
	}
	var j jsonEntry
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&j); err != nil {
		return entry{}, fmt.Errorf("entry %q: %w", name, err)
	}
	size, ok := sizeOf[j.DType]
	if !ok {
		return entry{}, fmt.Errorf("entry %q has the unknown dtype %q", name, j.DType)
	}
	if j.Shape == nil {
		return entry{}, fmt.Errorf("entry %q has no shape", name)
	}
	n, err := elementsOf(j.Shape)
	if err != nil {
		return entry{}, fmt.Errorf("entry %q: %w", name, err)
	}
	if len(j.Offsets) != 2 {
		return entry{}, fmt.Errorf("entry %q has %d offsets, not 2", name, len(j.Offsets))
	}
	begin, end := j.Offsets[0], j.Offsets[1]
	if begin < 0 || end < begin || end-begin != n*size {
		return entry{}, fmt.Errorf("entry %q: bytes [%d,%d) do not hold %s of shape %s", name, begin, end, j.DType, shapeString(j.Shape))
	}
	return entry{name, j.DType, j.Shape, begin, end}, nil
}

// checkTiling sorts the entries by place and refuses overlaps, holes and what lies outside.
func checkTiling(entries []entry, dataBytes int64) error {
	slices.SortStableFunc(entries, func(a, b entry) int {
		return cmp.Or(cmp.Compare(a.begin, b.begin), cmp.Compare(a.end, b.end))
	})
	at := int64(0)
	for _, e := range entries {
		if e.begin != at {
			return fmt.Errorf("entry %q starts at byte %d of the data, not at %d: an overlap or a hole", e.name, e.begin, at)
		}
		at = e.end
	}
	if at != dataBytes {
		return fmt.Errorf("the entries have %d bytes and the file has %d", at, dataBytes)
	}
	return nil
}

// readFull reads len(b) bytes at off; too few are io.ErrUnexpectedEOF.
func readFull(r io.ReaderAt, b []byte, off int64) error {
	n, err := r.ReadAt(b, off)
	if n == len(b) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// The metadata that a part carries: what Commit needs to know of it without reading its data.
const (
	metaMeta   = "farandole.meta"   // Meta as JSON
	metaPart   = "farandole.part"   // "i of n"
	metaHashes = "farandole.hashes" // of the entries, in order, separated by spaces
	metaCheck  = "farandole.check"  // hash of the other three
)

// partHeader is the header of a part. Everything in it but the hashes follows from the arguments, so that Commit can compare bytes.
func partHeader(m Meta, specs []spec, spans []span, part, parts int, hashes []string) ([]byte, error) {
	meta, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	entries := make([]entry, len(spans))
	for i, s := range spans {
		entries[i] = entryOf(specs, s)
	}
	return encodeHeader(partMetadata(string(meta), fmt.Sprintf("%d of %d", part, parts), joinHashes(hashes)), entries)
}

func partMetadata(meta, place, hashes string) map[string]string {
	md := map[string]string{
		"format": "pt", // loaders of PyTorch models insist on it
		metaMeta: meta,
	}
	if place != "" {
		md[metaPart], md[metaHashes] = place, hashes
		md[metaCheck] = hashBytes([]byte(meta + "\n" + place + "\n" + hashes))
	}
	return md
}
