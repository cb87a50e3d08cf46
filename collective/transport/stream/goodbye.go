package stream

import (
	"errors"
	"io"

	"github.com/farandole-ml/farandole/collective"
)

// A goodbye is the last frame of a connection whose rank gives the group up, so that its peers can tell the one that
// failed from those that left because of it. It is sent where that is possible at once: its absence means nothing.
// Its message is a collective.Farewell.

func goodbye(cause error) []byte {
	message := collective.Farewell(cause)
	h := header{op: collective.Op{Kind: kindGoodbye}, bytes: uint64(len(message))}
	var b [headerBytes]byte
	h.encode(&b)
	return append(b[:], message...)
}

// readGoodbye ends the group after p's goodbye; got is the part of the message that has been read.
func (t *stream) readGoodbye(p *peer, w *wire, h header, got []byte) error {
	var buf [collective.MaxFarewell]byte
	message := buf[:min(h.bytes, collective.MaxFarewell)]
	n := copy(message, got)
	if n < len(message) {
		if _, err := w.read(message[n:], nil, t); err != nil && !errors.Is(err, io.EOF) {
			message = message[:n]
		}
	}
	t.Abort(collective.ReadFarewell(message, p.rank, t.id.Rank, len(t.peers), t.op.Kind))
	return t.cause()
}
