package kernels

import (
	"fmt"
	"strings"
)

// DType is the type of an array's elements. Elements lie in memory as the machine's own, in its byte order; a bfloat16 and a
// float16 are two bytes.
type DType uint8

// The types.
const (
	Float32 DType = iota
	Float64
	BFloat16
	Float16
	Int32
	Int64
	Uint8

	dtypes = iota
)

var dtypeNames = [dtypes]string{"float32", "float64", "bfloat16", "float16", "int32", "int64", "uint8"}

var dtypeSizes = [dtypes]int{4, 8, 2, 2, 4, 8, 1}

// dtypeAliases are the short names that people use.
var dtypeAliases = map[string]DType{
	"f32": Float32, "float": Float32, "fp32": Float32,
	"f64": Float64, "double": Float64, "fp64": Float64,
	"bf16": BFloat16,
	"f16":  Float16, "half": Float16, "fp16": Float16,
	"i32": Int32, "int": Int32,
	"i64": Int64,
	"u8":  Uint8, "byte": Uint8,
}

// Valid says whether t is one of the types.
func (t DType) Valid() bool { return t < dtypes }

// Size is the number of bytes of one element.
func (t DType) Size() int { return dtypeSizes[t] }

// String is the type's name as ParseDType reads it.
func (t DType) String() string {
	if !t.Valid() {
		return fmt.Sprintf("DType(%d)", uint8(t))
	}
	return dtypeNames[t]
}

// ParseDType reads a type's name, or a usual short one such as "f32", "bf16" or "half". The error lists the choices.
func ParseDType(s string) (DType, error) {
	for t, name := range dtypeNames {
		if s == name {
			return DType(t), nil
		}
	}
	if t, ok := dtypeAliases[s]; ok {
		return t, nil
	}
	return 0, fmt.Errorf("data type %q is not known: use %s", s, strings.Join(dtypeNames[:], ", "))
}

// RedOp is how two elements become one.
type RedOp uint8

// The operations.
const (
	Sum RedOp = iota
	Prod
	Min
	Max

	redOps = iota
)

var redOpNames = [redOps]string{"sum", "prod", "min", "max"}

// Valid says whether o is one of the operations.
func (o RedOp) Valid() bool { return o < redOps }

// String is the operation's name: "sum", "prod", "min" or "max".
func (o RedOp) String() string {
	if !o.Valid() {
		return fmt.Sprintf("RedOp(%d)", uint8(o))
	}
	return redOpNames[o]
}
