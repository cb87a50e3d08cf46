package main

import (
	"encoding/binary"
	"math"
	"slices"

	"github.com/farandole-ml/farandole/collective"
)

// benchPeriod is after how many elements an input repeats itself: a prime, so that parts that are swapped, shifted
// by a chunk, a line or a segment, or left over from another pass, show.
const benchPeriod = 4093

// benchPattern has the inputs of an operation and its exact result. Part p of pass q is a fixed sequence of benchPeriod
// elements, repeated. Reduced values are chosen so that every intermediate value of every order is exact in
// the type: small whole numbers for sums, signed powers of two for products of floats; integers wrap, and use
// all their bits. So the result has one right answer whatever the algorithm does, and it is compared bit by bit.
//
// The results here are computed by plain loops over float64 and int64: nothing that is measured takes part.
type benchPattern struct {
	typ   collective.DType
	redop collective.RedOp
	parts int // that are reduced
}

// exactWhole is the whole number up to which all others are exact in a float type.
func exactWhole(t collective.DType) int {
	switch t {
	case collective.BFloat16:
		return 1 << 8
	case collective.Float16:
		return 1 << 11
	}
	return 1 << 24
}

// maxProductFactors bounds the parts whose factor is not ±1: float16 holds 2^±14.
const maxProductFactors = 12

func isFloat(t collective.DType) bool {
	switch t {
	case collective.Int32, collective.Int64, collective.Uint8:
		return false
	}
	return true
}

// float is element i of a part that is to be reduced.
func (p benchPattern) float(pass, part, i int) float64 {
	h := scramble(pass, part, i)
	if p.redop == collective.Prod {
		sign := float64(1) - 2*float64(h&1)
		if stride := (p.parts + maxProductFactors - 1) / maxProductFactors; (part+i)%stride != 0 {
			return sign
		}
		return math.Ldexp(sign, int(h>>1%3)-1)
	}
	limit := uint64(min(1000, exactWhole(p.typ)/p.parts))
	return float64(int64(h%(2*limit+1)) - int64(limit))
}

// part is one period of an input.
func (p benchPattern) part(pass, part int) []byte {
	out := make([]byte, 0, benchPeriod*p.typ.Size())
	for i := range benchPeriod {
		if isFloat(p.typ) {
			out = appendFloat(out, p.typ, p.float(pass, part, i))
		} else {
			out = appendInt(out, p.typ, p.integer(pass, part, i))
		}
	}
	return out
}

func (p benchPattern) integer(pass, part, i int) int64 {
	v := int64(scramble(pass, part, i))
	if p.redop == collective.Prod {
		v |= 1 // an even factor or two, and little is left of the others
	}
	return wrapTo(p.typ, v)
}

// result is one period of parts [first, end) reduced.
func (p benchPattern) result(pass, first, end int) []byte {
	out := make([]byte, 0, benchPeriod*p.typ.Size())
	for i := range benchPeriod {
		if isFloat(p.typ) {
			v := p.float(pass, first, i)
			for part := first + 1; part < end; part++ {
				v = combineFloat(p.redop, v, p.float(pass, part, i))
			}
			if p.redop == collective.Avg {
				v /= float64(end - first)
			}
			out = appendFloat(out, p.typ, v)
			continue
		}
		v := p.integer(pass, first, i)
		for part := first + 1; part < end; part++ {
			v = wrapTo(p.typ, combineInt(p.redop, v, p.integer(pass, part, i)))
		}
		if p.redop == collective.Avg {
			v /= int64(end - first)
		}
		out = appendInt(out, p.typ, v)
	}
	return out
}

// moved is one period of a part that is only moved: arbitrary bytes, NaNs among them.
func (p benchPattern) moved(pass, part int) []byte {
	out := make([]byte, 0, benchPeriod*8)
	for i := 0; len(out) < benchPeriod*p.typ.Size(); i++ {
		out = binary.LittleEndian.AppendUint64(out, scramble(pass, part, i))
	}
	return out[:benchPeriod*p.typ.Size()]
}

// neutral is one period of the value that stays as it is however often it is reduced, where others would overflow.
func (p benchPattern) neutral() []byte {
	if p.redop != collective.Prod {
		return make([]byte, benchPeriod*p.typ.Size())
	}
	var one []byte
	if isFloat(p.typ) {
		one = appendFloat(nil, p.typ, 1)
	} else {
		one = appendInt(nil, p.typ, 1)
	}
	return slices.Repeat(one, benchPeriod)
}

func combineFloat(op collective.RedOp, a, b float64) float64 {
	switch op {
	case collective.Prod:
		return a * b
	case collective.Min:
		return min(a, b)
	case collective.Max:
		return max(a, b)
	}
	return a + b
}

func combineInt(op collective.RedOp, a, b int64) int64 {
	switch op {
	case collective.Prod:
		return a * b
	case collective.Min:
		return min(a, b)
	case collective.Max:
		return max(a, b)
	}
	return a + b
}

// wrapTo is v as the type holds it.
func wrapTo(t collective.DType, v int64) int64 {
	switch t {
	case collective.Int32:
		return int64(int32(v))
	case collective.Uint8:
		return int64(uint8(v))
	}
	return v
}

func appendInt(b []byte, t collective.DType, v int64) []byte {
	switch t {
	case collective.Int32:
		return binary.LittleEndian.AppendUint32(b, uint32(v))
	case collective.Uint8:
		return append(b, uint8(v))
	}
	return binary.LittleEndian.AppendUint64(b, uint64(v))
}

func appendFloat(b []byte, t collective.DType, v float64) []byte {
	switch t {
	case collective.Float64:
		return binary.LittleEndian.AppendUint64(b, math.Float64bits(v))
	case collective.BFloat16:
		return binary.LittleEndian.AppendUint16(b, halfBits(v, 7, 127))
	case collective.Float16:
		return binary.LittleEndian.AppendUint16(b, halfBits(v, 10, 15))
	}
	return binary.LittleEndian.AppendUint32(b, math.Float32bits(float32(v)))
}

// halfBits is v, finite and within the type's normal range or zero, in a 16-bit float with that many bits of
// mantissa, rounded to the nearest, ties to even.
func halfBits(v float64, mantissa, bias int) uint16 {
	if v == 0 {
		return 0
	}
	var sign uint16
	if v < 0 {
		sign, v = 1<<15, -v
	}
	_, e := math.Frexp(v) // v = [½, 1)·2^e
	e--
	q := math.RoundToEven(math.Ldexp(v, mantissa-e)) // [2^mantissa, 2^(mantissa+1)]: a carry raises the exponent below
	return sign | uint16((e+bias)<<mantissa+int(q)-1<<mantissa)
}

// scramble is a number that depends on every bit of its arguments (the finalizer of SplitMix64).
func scramble(pass, part, i int) uint64 {
	x := uint64(pass)<<48 ^ uint64(part)<<24 ^ uint64(i) + 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// repeat fills b with the period, from its element number at on; b[0] is element at of the whole.
func repeatInto(b, period []byte, at, size int) {
	from := at % benchPeriod * size
	for len(b) > 0 {
		n := copy(b, period[from:])
		b, from = b[n:], 0
	}
}

// wrongIn counts the elements of b that differ from the period, of which b[0] is element number at.
func wrongIn(b, period []byte, at, size int) (wrong int64) {
	from := at % benchPeriod * size
	for len(b) > 0 {
		n := min(len(b), len(period)-from)
		wrong += differing(b[:n], period[from:from+n], size)
		b, from = b[n:], 0
	}
	return wrong
}

func differing(a, b []byte, size int) (n int64) {
	if string(a) == string(b) {
		return 0
	}
	for i := 0; i < len(a); i += size {
		if string(a[i:i+size]) != string(b[i:i+size]) {
			n++
		}
	}
	return n
}
