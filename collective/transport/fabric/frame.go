//go:build fabric && cgo && linux

package fabric

import (
	"fmt"

	"github.com/farandole-ml/farandole/collective/transport"
)

// Between two ranks messages are numbered from 1 in each direction. A message of at most smallBytes travels in one
// datagram behind its header; the header of a larger one travels alone and the message follows in pieces.
const (
	frameMagic = 0x4c4e5246 // "FRNL"

	// smallBytes is at most what providers send without asking the receiver first.
	smallBytes = 8 << 10
)

// A tag says what a datagram is: header or piece, from whom, which piece (modulo maxPieces), which message. Every message
// between two ranks has its own tags, so that it does not matter in which order datagrams arrive.
const (
	tagBits    = 60 // that are used: some providers keep the highest for themselves
	tagPiece   = 1 << (tagBits - 1)
	tagSource  = 43 // bits below
	tagPlace   = 32
	maxPieces  = 1 << (tagSource - tagPlace)
	maxSources = 1 << (tagBits - 1 - tagSource)
)

func headerTag(from int, number uint32) uint64 {
	return uint64(from)<<tagSource | uint64(number)
}

func pieceTag(from int, number uint32, piece int) uint64 {
	return tagPiece | uint64(from)<<tagSource | uint64(piece%maxPieces)<<tagPlace | uint64(number)
}

// decodeHeader reads the header of a datagram.
func decodeHeader(b []byte) (transport.Header, error) {
	if len(b) < transport.HeaderBytes {
		return transport.Header{}, fmt.Errorf("%w: a datagram of %d bytes that is no frame", transport.ErrCorrupt, len(b))
	}
	return transport.DecodeHeader((*[transport.HeaderBytes]byte)(b), frameMagic)
}
