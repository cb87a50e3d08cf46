//go:build cgo

package kernels

// EmulatePairs makes a device of class bf16 do without vdpbf16ps.
func EmulatePairs(d Device) {
	if e, ok := d.(*hostDevice).engine.(*native); ok {
		e.product = productPairs
	}
}
