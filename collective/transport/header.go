package transport

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/farandole-ml/farandole/collective"
)

// ErrCorrupt says that what came from a peer is not what a peer sends: a flipped bit, or a foreign program.
var ErrCorrupt = errors.New("corrupt data")

// A frame is a header and a message, or a piece of one. The header, little-endian:
//
//	 0  magic                 4 bytes, the transport's own
//	 4  operation kind        1, or KindGoodbye, or another of the transport's own
//	 5  flags                 1, bit 0: there is a checksum
//	 6  zero                  2
//	 8  operation number      4
//	12  shape                 4
//	16  operation's bytes     8
//	24  message's bytes       8
//	32  message number        4, counted from 1 on each connection and direction
//	36  CRC-32C of what the frame carries  4, zero without the flag
//	40  CRC-32C of the above  4
const (
	HeaderBytes = 44
	KindGoodbye = 0xff

	flagChecksum = 1
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Header is a frame's header, decoded.
type Header struct {
	Op     collective.Op
	Bytes  uint64
	Number uint32

	flags    byte
	checksum uint32
}

// Sum puts a checksum of what the frame carries into h.
func (h *Header) Sum(carried []byte) {
	h.flags |= flagChecksum
	h.checksum = crc32.Checksum(carried, castagnoli)
}

// Check compares the checksum in h with what came. A header without one is wrong.
func (h *Header) Check(carried []byte) error {
	if h.flags&flagChecksum == 0 || h.checksum != crc32.Checksum(carried, castagnoli) {
		return fmt.Errorf("%w: checksum of message %d", ErrCorrupt, h.Number)
	}
	return nil
}

// Encode writes h into b.
func (h *Header) Encode(b *[HeaderBytes]byte, magic uint32) {
	le := binary.LittleEndian
	le.PutUint32(b[0:], magic)
	b[4], b[5], b[6], b[7] = byte(h.Op.Kind), h.flags, 0, 0
	le.PutUint32(b[8:], h.Op.Seq)
	le.PutUint32(b[12:], h.Op.Shape)
	le.PutUint64(b[16:], h.Op.Bytes)
	le.PutUint64(b[24:], h.Bytes)
	le.PutUint32(b[32:], h.Number)
	le.PutUint32(b[36:], h.checksum)
	le.PutUint32(b[40:], crc32.Checksum(b[:40], castagnoli))
}

// Begins says whether a frame with this magic begins in b.
func Begins(b []byte, magic uint32) bool {
	return len(b) >= HeaderBytes && binary.LittleEndian.Uint32(b) == magic
}

// DecodeHeader reads what Encode wrote; its error is ErrCorrupt.
func DecodeHeader(b *[HeaderBytes]byte, magic uint32) (Header, error) {
	le := binary.LittleEndian
	if m := le.Uint32(b[0:]); m != magic {
		return Header{}, fmt.Errorf("%w: frame begins with %08x, not %08x", ErrCorrupt, m, magic)
	}
	if le.Uint32(b[40:]) != crc32.Checksum(b[:40], castagnoli) {
		return Header{}, fmt.Errorf("%w: checksum of a frame header", ErrCorrupt)
	}
	return Header{
		Op: collective.Op{
			Kind:  collective.OpKind(b[4]),
			Seq:   le.Uint32(b[8:]),
			Shape: le.Uint32(b[12:]),
			Bytes: le.Uint64(b[16:]),
		},
		Bytes:    le.Uint64(b[24:]),
		Number:   le.Uint32(b[32:]),
		flags:    b[5],
		checksum: le.Uint32(b[36:]),
	}, nil
}

// Goodbye is the last frame of a rank that gives the group up because of cause, so that its peers can tell the one that
// failed from those that left because of it. Its message is a collective.Farewell.
func Goodbye(cause error, magic uint32) []byte {
	message := collective.Farewell(cause)
	h := Header{Op: collective.Op{Kind: KindGoodbye}, Bytes: uint64(len(message))}
	var b [HeaderBytes]byte
	h.Encode(&b, magic)
	return append(b[:], message...)
}
