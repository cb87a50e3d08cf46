package grpc

// A frame is one gRPC message: a header and a piece of a message of the group. Large messages travel in several
// pieces, one after the other, under the same header but for the checksum, which is the piece's.
const (
	frameMagic = 0x474e5246 // "FRNG"
	kindGrant  = 0xfe       // no message: its bytes may be sent again

	// pieceBytes is the most bytes of a message that one frame carries.
	pieceBytes = 1 << 20
)
