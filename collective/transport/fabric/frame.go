//go:build fabric && cgo && linux

package fabric

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"github.com/farandole-ml/farandole/collective"
)

// Between two ranks messages are numbered from 1 in each direction. A message of at most smallBytes travels in one
// datagram behind its header; the header of a larger one travels alone and the message follows in pieces. The header,
// little-endian:
//
//	 0  magic "FRNL"          4 bytes
//	 4  operation kind        1
//	 5  flags                 1, bit 0: the message has a checksum
//	 6  zero                  2
//	 8  operation number      4
//	12  shape                 4
//	16  operation's bytes     8
//	24  message's bytes       8
//	32  message number        4
//	36  message's CRC-32C     4, zero without the flag
//	40  CRC-32C of the above  4
const (
	headerBytes  = 44
	frameMagic   = 0x4c4e5246
	flagChecksum = 1

	// smallBytes is at most what providers send without asking the receiver first.
	smallBytes = 8 << 10
)

// A tag says what a datagram is: header or piece, from whom, which piece (modulo maxPieces), which message.
const (
	tagPiece   = 1 << 63
	tagSource  = 43 // bits below
	tagPlace   = 32
	maxPieces  = 1 << (tagSource - tagPlace)
	maxSources = 1 << (63 - tagSource)
)

func headerTag(from int, number uint32) uint64 {
	return uint64(from)<<tagSource | uint64(number)
}

func pieceTag(from int, number uint32, piece int) uint64 {
	return tagPiece | uint64(from)<<tagSource | uint64(piece%maxPieces)<<tagPlace | uint64(number)
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// header is a frame's header, decoded.
type header struct {
	op       collective.Op
	flags    byte
	bytes    uint64
	number   uint32
	checksum uint32
}

func (h header) encode(b []byte) {
	le := binary.LittleEndian
	_ = b[headerBytes-1]
	le.PutUint32(b[0:], frameMagic)
	b[4], b[5], b[6], b[7] = byte(h.op.Kind), h.flags, 0, 0
	le.PutUint32(b[8:], h.op.Seq)
	le.PutUint32(b[12:], h.op.Shape)
	le.PutUint64(b[16:], h.op.Bytes)
	le.PutUint64(b[24:], h.bytes)
	le.PutUint32(b[32:], h.number)
	le.PutUint32(b[36:], h.checksum)
	le.PutUint32(b[40:], crc32.Checksum(b[:40], castagnoli))
}

func decodeHeader(b []byte) (header, error) {
	le := binary.LittleEndian
	if len(b) < headerBytes || le.Uint32(b[0:]) != frameMagic {
		return header{}, fmt.Errorf("%w: a datagram of %d bytes that is no frame", ErrCorrupt, len(b))
	}
	if le.Uint32(b[40:]) != crc32.Checksum(b[:40], castagnoli) {
		return header{}, fmt.Errorf("%w: checksum of a frame header", ErrCorrupt)
	}
	return header{
		op: collective.Op{
			Kind:  collective.OpKind(b[4]),
			Seq:   le.Uint32(b[8:]),
			Shape: le.Uint32(b[12:]),
			Bytes: le.Uint64(b[16:]),
		},
		flags:    b[5],
		bytes:    le.Uint64(b[24:]),
		number:   le.Uint32(b[32:]),
		checksum: le.Uint32(b[36:]),
	}, nil
}
