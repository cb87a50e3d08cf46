package kernels

// CutFinely makes a device of NewCPU cut every operation into as many parts as it has threads, however small,
// and every matrix product and convolution at every canonical block.
func CutFinely(d Device) {
	h := d.(*hostDevice)
	h.minPartWork, h.sharedFloats, h.columnFloats = 1, 1, 1
}

// BufferOn and IntsOn are a device's buffers on a test's own memory.
func BufferOn(d Device, x []float32) Buffer { return &hostBuffer{d.(*hostDevice), x} }
func IntsOn(d Device, x []int32) Ints       { return &hostInts{d.(*hostDevice), x} }

// RunOn is Run on one instruction set, with streaming stores or without.
func (r *Reduction) RunOn(isa string, stream bool, dsts, srcs [][]byte) {
	if r.check(dsts, srcs) > 0 {
		newEngine(isa, ClassF32).reduce(r, dsts, srcs, stream)
	}
}

func Reduce2On(isa string, stream bool, t DType, op RedOp, dst, a, b []byte) {
	newEngine(isa, ClassF32).reduce2(t, op, dst, a, b, stream)
}

func EncodeBF16On(isa string, dst []byte, src []float32) {
	newEngine(isa, ClassF32).encodeBF16(dst, src)
}
func DecodeBF16On(isa string, dst []float32, src []byte) {
	newEngine(isa, ClassF32).decodeBF16(dst, src)
}

func EncodeInt8On(isa string, dst []byte, src []float32) {
	newEngine(isa, ClassF32).encodeInt8(dst, src)
}
func DecodeInt8On(isa string, dst []float32, src []byte) {
	newEngine(isa, ClassF32).decodeInt8(dst, src)
}
func ResidualOn(isa string, x, sent []float32) { newEngine(isa, ClassF32).residual(x, sent) }
