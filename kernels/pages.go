package kernels

import "unsafe"

// alignBytes is the alignment of buffers: one cache line, one AVX-512 register.
const alignBytes = 64

// hugePage is the size of a huge page on x86-64, and on arm64 with pages of 4 KiB.
const hugePage = 2 << 20

// In floats: smaller memory than ownPages comes alone, larger shares huge pages, at least blockPages at a time.
const (
	ownPages   = 128 << 10 / 4
	blockPages = 4 * hugePage / 4
)

// pages hands out memory that lies in huge pages altogether. A matrix of which parts lie in pages of 4 KiB costs a table walk for
// every row of a tile, which takes up to a tenth of a product's time. What is not in use any longer is freed with all that came from the
// same block.
type pages struct{ rest []float32 }

// floats gives n zeros that begin at a multiple of alignBytes.
func (p *pages) floats(n int) []float32 {
	if n < ownPages {
		return AlignedFloats(n)
	}
	whole := (n + alignBytes/4 - 1) / (alignBytes / 4) * (alignBytes / 4)
	if whole > len(p.rest) {
		block := aligned(max((whole*4+hugePage-1)/hugePage*hugePage/4, blockPages), hugePage)
		wantHugePages(block)
		if left := block[whole:]; len(left) < len(p.rest) {
			return block[:n:n]
		}
		p.rest = block
	}
	x := p.rest[:n:n]
	p.rest = p.rest[whole:]
	return x
}

// AlignedFloats gives memory for n values that begins at a multiple of alignBytes.
func AlignedFloats(n int) []float32 {
	x := aligned(n, alignBytes)
	wantHugePages(x)
	return x
}

func aligned(n int, align uintptr) []float32 {
	x := make([]float32, n+int(align)/4)
	off := 0
	if past := uintptr(unsafe.Pointer(&x[0])) % align; past != 0 {
		off = int(align-past) / 4
	}
	return x[off : off+n : off+n]
}
