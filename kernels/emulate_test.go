//go:build cgo

package kernels

// SetFirstCache makes products believe in a first cache of that many bytes, and gives what they believed before.
func SetFirstCache(bytes int) (before int) { return setFirstCache(bytes) }

// EmulateProducts makes a device of class bf16 or bf16-amx do without an instruction for it.
func EmulateProducts(d Device) {
	if e, ok := d.(*hostDevice).engine.(*native); ok {
		e.product = map[string]int{ClassBF16: productPairs, ClassBF16AMX: productGroups}[e.class]
	}
}
