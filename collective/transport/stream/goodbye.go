package stream

import (
	"errors"
	"fmt"
	"io"

	"github.com/farandole-ml/farandole/collective"
)

// A goodbye is the last frame of a connection whose rank gives the group up, so that its peers can tell the one that
// failed from those that left because of it. It is sent where that is possible at once: its absence means nothing.
// Its operation number is the blamed rank plus one, zero for none; its shape is shapeMoved when the rank left for another
// generation; its message is a text.

// shapeMoved in a goodbye says that nothing is wrong: the rank was told of another generation before its peer was.
const shapeMoved = 1

// errLeft is a goodbye that blames nobody.
var errLeft = errors.New("left the group")

// farewell encodes the goodbye of a rank that aborted with cause.
func farewell(cause error) []byte {
	h := header{op: collective.Op{Kind: kindGoodbye}}
	text := cause.Error()
	var pe *collective.PeerError
	if errors.As(cause, &pe) {
		h.op.Seq = uint32(pe.Rank) + 1
		text = pe.Err.Error()
	}
	if errors.Is(cause, collective.ErrGenerationChanged) {
		h.op.Shape = shapeMoved
	}
	text = text[:min(len(text), maxGoodbye)]
	h.bytes = uint64(len(text))
	var b [headerBytes]byte
	h.encode(&b)
	return append(b[:], text...)
}

// goodbye ends the group after p's goodbye; got is the part of the text that has been read.
func (t *stream) goodbye(p *peer, w *wire, h header, got []byte) error {
	var buf [maxGoodbye]byte
	text := buf[:min(h.bytes, maxGoodbye)]
	n := copy(text, got)
	if n < len(text) {
		if _, err := w.read(text[n:], nil); err != nil && !errors.Is(err, io.EOF) {
			text = text[:n]
		}
	}
	blamed := int(h.op.Seq) - 1
	switch {
	case blamed < 0 && h.op.Shape == shapeMoved:
		return t.fail(p, collective.ErrPeerMoved)
	case blamed < 0:
		return t.fail(p, fmt.Errorf("%w: %q", errLeft, text))
	case blamed == t.id.Rank || blamed >= len(t.peers):
		return t.fail(p, fmt.Errorf("%w: it gave this rank up: %q", ErrLost, text))
	case blamed == p.rank:
		return t.fail(p, fmt.Errorf("%w: %q", errLeft, text))
	}
	return t.fail(t.peers[blamed], fmt.Errorf("%w, reported by rank %d: %q", ErrLost, p.rank, text))
}
