package grpc

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/farandole-ml/farandole/collective"
)

// A frame is one gRPC message: a header and a piece of a message of the group. Large messages travel in several
// pieces. The header, little-endian:
//
//	 0  magic "FRNG"          4 bytes
//	 4  operation kind        1, or kindGoodbye, kindGrant
//	 5  flags                 1, bit 0: the piece has a checksum
//	 6  zero                  2
//	 8  operation number      4
//	12  shape                 4
//	16  operation's bytes     8
//	24  message's bytes       8; a grant's bytes
//	32  piece's place         8
//	40  message number        4, counted from 1 on each stream and direction
//	44  piece's CRC-32C       4, zero without the flag
//	48  CRC-32C of the above  4
const (
	headerBytes  = 52
	frameMagic   = 0x474e5246
	kindGoodbye  = 0xff
	kindGrant    = 0xfe
	flagChecksum = 1

	// pieceBytes is the most bytes of a message that one frame carries.
	pieceBytes = 1 << 20
)

// ErrCorrupt says that what came from a peer is not what a peer sends: a flipped bit, or a foreign program.
var ErrCorrupt = errors.New("corrupt data")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// header is a frame's header, decoded.
type header struct {
	op       collective.Op
	flags    byte
	bytes    uint64
	place    uint64
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
	le.PutUint64(b[32:], h.place)
	le.PutUint32(b[40:], h.number)
	le.PutUint32(b[44:], h.checksum)
	le.PutUint32(b[48:], crc32.Checksum(b[:48], castagnoli))
}

// isFrame tells a frame from a message of the handshake.
func isFrame(b []byte) bool {
	return len(b) >= headerBytes && binary.LittleEndian.Uint32(b) == frameMagic
}

func decodeHeader(b []byte) (header, error) {
	le := binary.LittleEndian
	_ = b[headerBytes-1]
	if le.Uint32(b[48:]) != crc32.Checksum(b[:48], castagnoli) {
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
		place:    le.Uint64(b[32:]),
		number:   le.Uint32(b[40:]),
		checksum: le.Uint32(b[44:]),
	}, nil
}
