package collective

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// ErrPeerLeft says that a peer left the group and said goodbye. ErrPeerLost says that it is gone without one, or that
// the connection to it is.
var (
	ErrPeerLeft = errors.New("left the group")
	ErrPeerLost = errors.New("connection lost")
)

// MaxFarewell is the most bytes of a Farewell.
const MaxFarewell = 320

// A farewell, little-endian:
//
//	 0  reason                      1 byte
//	 1  blamed rank plus one        4, zero for nobody
//	 5  text                        the rest, but for farewellStep:
//	 5  witness plus one            4, zero for the sender
//	 9  message's bytes, got, want  8 each
//	25  operation, got, want        kind 1, number 4, shape 4, bytes 8 each
const (
	farewellLeft  = iota // for no fault of a peer, or for that of the blamed one
	farewellMoved        // told of another generation
	farewellStep         // out of step with the blamed one
)

const (
	farewellHead = 5
	stepBytes    = 4 + 2*8 + 2*opBytes
	opBytes      = 1 + 4 + 4 + 8
)

// Farewell says in bytes why a rank ends its part in a group, for a Transport to tell the peers: so that they
// can tell the one that failed from those that left because of it. It carries no more than that.
func Farewell(cause error) []byte {
	var pe *PeerError
	text := "no reason given"
	if cause != nil {
		text = cause.Error()
	}
	b := make([]byte, farewellHead, MaxFarewell)
	if errors.As(cause, &pe) {
		binary.LittleEndian.PutUint32(b[1:], uint32(pe.Rank)+1)
		text = pe.Err.Error()
		var step *OutOfStepError
		if errors.As(pe.Err, &step) {
			b[0] = farewellStep
			b = binary.LittleEndian.AppendUint32(b, uint32(step.Witness))
			b = binary.LittleEndian.AppendUint64(b, step.GotBytes)
			b = binary.LittleEndian.AppendUint64(b, step.WantBytes)
			return appendOp(appendOp(b, step.Got), step.Want)
		}
	} else if errors.Is(cause, ErrGenerationChanged) {
		b[0] = farewellMoved
	}
	return append(b, text[:min(len(text), MaxFarewell-len(b))]...)
}

// ReadFarewell is what rank, in a group of world, makes of the Farewell of rank from, or of anything else that came in
// its place, during an operation of kind doing.
func ReadFarewell(b []byte, from, rank, world int, doing OpKind) *PeerError {
	blame := func(peer int, err error) *PeerError { return &PeerError{Rank: peer, Op: doing.String(), Err: err} }
	if len(b) < farewellHead {
		return blame(from, ErrPeerLeft)
	}
	blamed := int(binary.LittleEndian.Uint32(b[1:])) - 1
	text := b[farewellHead:min(len(b), MaxFarewell)]
	switch {
	case b[0] == farewellMoved:
		return blame(from, ErrPeerMoved)
	case b[0] == farewellStep && len(text) == stepBytes && blamed >= 0 && blamed < world:
		if peer, err := readStep(text, blamed, from, rank, world); err != nil {
			return blame(peer, err)
		}
		return blame(from, ErrPeerLeft)
	case b[0] != farewellLeft:
		return blame(from, ErrPeerLeft)
	case blamed == rank || blamed >= world:
		return blame(from, fmt.Errorf("%w: it gave this rank up: %q", ErrPeerLost, text))
	case blamed < 0 || blamed == from:
		return blame(from, fmt.Errorf("%w: %q", ErrPeerLeft, text))
	}
	return blame(blamed, fmt.Errorf("%w, reported by rank %d: %q", ErrPeerLost, from, text))
}

// readStep gives the error of two ranks that are out of step as it looks from rank, and the one of them to name.
func readStep(b []byte, blamed, from, rank, world int) (int, error) {
	witness := int(binary.LittleEndian.Uint32(b)) - 1
	if witness < 0 {
		witness = from
	}
	if witness >= world || witness == blamed {
		return 0, nil
	}
	e := &OutOfStepError{
		GotBytes:  binary.LittleEndian.Uint64(b[4:]),
		WantBytes: binary.LittleEndian.Uint64(b[12:]),
		Got:       readOp(b[20:]),
		Want:      readOp(b[20+opBytes:]),
	}
	switch rank {
	case witness:
		return blamed, e
	case blamed:
		e.Got, e.Want, e.GotBytes, e.WantBytes = e.Want, e.Got, e.WantBytes, e.GotBytes
		return witness, e
	}
	e.Witness = witness + 1
	return blamed, e
}

func appendOp(b []byte, o Op) []byte {
	b = append(b, byte(o.Kind))
	b = binary.LittleEndian.AppendUint32(b, o.Seq)
	b = binary.LittleEndian.AppendUint32(b, o.Shape)
	return binary.LittleEndian.AppendUint64(b, o.Bytes)
}

func readOp(b []byte) Op {
	return Op{
		Kind:  OpKind(b[0]),
		Seq:   binary.LittleEndian.Uint32(b[1:]),
		Shape: binary.LittleEndian.Uint32(b[5:]),
		Bytes: binary.LittleEndian.Uint64(b[9:]),
	}
}
