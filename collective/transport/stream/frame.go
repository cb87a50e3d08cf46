package stream

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"github.com/farandole-ml/farandole/collective"
)

// A frame is a header and a message. The header, little-endian:
//
//	 0  magic "FRNF"          4 bytes
//	 4  operation kind        1, or kindGoodbye
//	 5  flags                 1, bit 0: the message has a checksum
//	 6  zero                  2
//	 8  operation number      4
//	12  shape                 4
//	16  operation's bytes     8
//	24  message's bytes       8
//	32  message number        4, counted from 1 on each connection and direction
//	36  message's CRC-32C     4, zero without the flag
//	40  CRC-32C of the above  4
const (
	headerBytes  = 44
	frameMagic   = 0x464e5246
	kindGoodbye  = 0xff
	flagChecksum = 1
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// header is a frame's header, decoded.
type header struct {
	op       collective.Op
	flags    byte
	bytes    uint64
	number   uint32
	checksum uint32
}

func (h header) encode(b *[headerBytes]byte) {
	le := binary.LittleEndian
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

func decodeHeader(b *[headerBytes]byte) (header, error) {
	le := binary.LittleEndian
	if m := le.Uint32(b[0:]); m != frameMagic {
		return header{}, fmt.Errorf("%w: frame begins with %08x, not %08x", ErrCorrupt, m, uint32(frameMagic))
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
