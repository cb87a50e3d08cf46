package checkpoint

import (
	"encoding/binary"
	"encoding/hex"
	"slices"
	"strings"
	"unsafe"

	"github.com/zeebo/xxh3"
)

// Tensor data is hashed by XXH3-128, the manifest by SHA-256.
//
// What a hash of the data must find is damage: flipped bits, torn writes, a stale block. XXH3-128 finds it as surely as
// SHA-256 does and several times faster, so that hashing costs less than reading a disk. Neither would stop someone who can
// write into the directory: he can write a new manifest and COMMIT as well. Who wants that keeps the SHA-256 of the manifest, which
// is the content of COMMIT, elsewhere: it names every byte up to collisions that somebody made on purpose.
const hashName = "xxh3-128"

// chunk is how much is hashed, written or read between two looks at the context.
const chunk = 1 << 20

func newHash() *xxh3.Hasher { return xxh3.New() }

func sumHex(h *xxh3.Hasher) string {
	b := h.Sum128().Bytes()
	return hex.EncodeToString(b[:])
}

func hashBytes(b []byte) string {
	s := xxh3.Hash128(b).Bytes()
	return hex.EncodeToString(s[:])
}

func joinHashes(h []string) string { return strings.Join(h, " ") }

var bigEndian = binary.NativeEndian.Uint16([]byte{0, 1}) == 1

// memory is f's memory as bytes: little-endian on every machine that matters; see swap for the others.
func memory(f []float32) []byte {
	if len(f) == 0 {
		return nil
	}
	return unsafe.Slice((*byte)(unsafe.Pointer(&f[0])), 4*len(f))
}

// littleEndian gives the bytes of f in the file's order: f's memory where that is it, a copy elsewhere.
func littleEndian(f []float32) []byte {
	b := memory(f)
	if bigEndian {
		b = append([]byte(nil), b...)
		swap(b, 4)
	}
	return b
}

// swap reverses the bytes of each word of so many bytes.
func swap(b []byte, width int) {
	for ; len(b) >= width; b = b[width:] {
		slices.Reverse(b[:width])
	}
}
