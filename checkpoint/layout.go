package checkpoint

import (
	"errors"
	"fmt"
	"math/bits"
	"regexp"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// spec is a tensor without its data.
type spec struct {
	name     string
	shape    []int64
	elements int64
}

// span is the part of a tensor that lies in one file: elements [first, end) of its row-major order.
type span struct {
	tensor     int // index in the list of specs
	first, end int64
}

func (s span) bytes() int64 { return 4 * (s.end - s.first) }

// shareStart is the first element of a part when total elements are cut into equal parts (within one element).
func shareStart(total int64, part, parts int) int64 {
	q, r := total/int64(parts), total%int64(parts)
	return q*int64(part) + min(int64(part), r)
}

// layout cuts the tensors, laid end to end, into equal parts. Every element is in exactly one span; an empty tensor has
// one empty span, in the part where it would start.
func layout(specs []spec, parts int) [][]span {
	var total int64
	for _, s := range specs {
		total += s.elements
	}
	out := make([][]span, parts)
	p, at := 0, int64(0)
	advance := func() {
		for p < parts-1 && at >= shareStart(total, p+1, parts) {
			p++
		}
	}
	for t, s := range specs {
		advance()
		if s.elements == 0 {
			out[p] = append(out[p], span{tensor: t})
			continue
		}
		for first := int64(0); first < s.elements; {
			advance()
			n := min(s.elements-first, shareStart(total, p+1, parts)-at)
			out[p] = append(out[p], span{t, first, first + n})
			first, at = first+n, at+n
		}
	}
	return out
}

// entryOf names a span in its file: a whole tensor keeps its name and shape, a slice of one is called
// name[first:end], as Python would write it of the flattened tensor, and is one-dimensional.
func entryOf(specs []spec, s span) entry {
	t := specs[s.tensor]
	if s.first == 0 && s.end == t.elements {
		return entry{name: t.name, dtype: "F32", shape: t.shape}
	}
	return entry{name: fmt.Sprintf("%s[%d:%d]", t.name, s.first, s.end), dtype: "F32", shape: []int64{s.end - s.first}}
}

// shapeOf is t's shape as files have it.
func shapeOf(t Tensor) []int64 {
	shape := make([]int64, len(t.Shape))
	for i, n := range t.Shape {
		shape[i] = int64(n)
	}
	return shape
}

// specsOf checks what the caller wants to save or load. withData asks for Data of the shape's length.
func specsOf(tensors []Tensor, withData bool) ([]spec, error) {
	specs := make([]spec, len(tensors))
	for i, t := range tensors {
		specs[i] = spec{name: t.Name, shape: shapeOf(t)}
	}
	if err := checkSpecs(specs); err != nil {
		return nil, err
	}
	for i, t := range tensors {
		if withData && int64(len(t.Data)) != specs[i].elements {
			return nil, fmt.Errorf("tensor %q has %d elements and its shape %v needs %d", t.Name, len(t.Data), t.Shape, specs[i].elements)
		}
	}
	return specs, nil
}

// checkSpecs checks names, shapes and counts, and fills in the numbers of elements.
func checkSpecs(specs []spec) error {
	if len(specs) > maxTensors {
		return fmt.Errorf("%d tensors, and the limit is %d", len(specs), maxTensors)
	}
	seen := make(map[string]bool, len(specs))
	var total int64
	for i := range specs {
		s := &specs[i]
		if err := checkName(s.name); err != nil {
			return err
		}
		if looksSliced.MatchString(s.name) {
			return fmt.Errorf("tensor name %q ends like the name of a slice", s.name)
		}
		if seen[s.name] {
			return fmt.Errorf("two tensors are named %q", s.name)
		}
		seen[s.name] = true
		n, err := elementsOf(s.shape)
		if err != nil {
			return fmt.Errorf("tensor %q: %w", s.name, err)
		}
		s.elements = n
		if total += n; total > maxElements {
			return fmt.Errorf("more than %d elements", int64(maxElements))
		}
	}
	return nil
}

var looksSliced = regexp.MustCompile(`\[\d+:\d+\]$`)

// checkName refuses names that another tool could trip over.
func checkName(name string) error {
	switch {
	case name == "":
		return errors.New("a tensor has no name")
	case len(name) > maxName:
		return fmt.Errorf("a tensor name has %d bytes, and the limit is %d", len(name), maxName)
	case name == metadataKey:
		return fmt.Errorf("tensor name %q is reserved", name)
	case !utf8.ValidString(name):
		return fmt.Errorf("tensor name %q is not UTF-8", name)
	case strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }):
		return fmt.Errorf("tensor name %q has unprintable characters", name)
	}
	return nil
}

// elementsOf is the product of the dimensions; a shape without dimensions is one number.
func elementsOf(shape []int64) (int64, error) {
	if len(shape) > maxRank {
		return 0, fmt.Errorf("%d dimensions, and the limit is %d", len(shape), maxRank)
	}
	n := int64(1)
	for _, d := range shape {
		if d < 0 {
			return 0, fmt.Errorf("negative dimension %d", d)
		}
		hi, lo := bits.Mul64(uint64(n), uint64(d))
		if hi != 0 || lo > maxElements {
			return 0, fmt.Errorf("shape %v is too large", shape)
		}
		n = int64(lo)
	}
	return n, nil
}

func shapeString(shape []int64) string {
	s := make([]string, len(shape))
	for i, d := range shape {
		s[i] = strconv.FormatInt(d, 10)
	}
	return "[" + strings.Join(s, " ") + "]"
}
