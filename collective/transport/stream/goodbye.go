package stream

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/farandole-ml/farandole/collective"
	"github.com/farandole-ml/farandole/collective/transport"
)

// readGoodbye ends the group after p's goodbye, which is sent where that is possible at once: its absence means nothing. got is the part of the message that has been read.
func (t *stream) readGoodbye(p *peer, w *wire, h transport.Header, got []byte) error {
	var buf [collective.MaxFarewell]byte
	message := buf[:min(h.Bytes, collective.MaxFarewell)]
	n := copy(message, got)
	if n < len(message) {
		if _, err := w.read(message[n:], nil, t); err != nil && !errors.Is(err, io.EOF) {
			message = message[:n]
		}
	}
	t.Abort(collective.ReadFarewell(message, p.rank, t.id.Rank, len(t.peers), t.op.Kind))
	return t.ending.Cause()
}

// lastWordsWait is how long a peer that takes no more bytes may take to say goodbye. It has said so before, as a rule.
const lastWordsWait = 50 * time.Millisecond

// unsendable ends the group because p takes no more bytes. Why that is stands at the end of what it has sent.
func (t *stream) unsendable(p *peer, err error) error {
	if p.receiving.CompareAndSwap(false, true) {
		if err := t.lastWords(p, time.Now().Add(lastWordsWait)); err != nil {
			return err
		}
	} else {
		patience := time.NewTimer(lastWordsWait)
		defer patience.Stop()
		select {
		case <-t.ending.Over(): // the Recv that runs has met the end
		case <-patience.C:
		}
	}
	return t.fail(p, fmt.Errorf("%w: %w", collective.ErrPeerLost, err))
}

// lastWords reads on until p's goodbye and ends the group with it. Nil means that there is none.
func (t *stream) lastWords(p *peer, deadline time.Time) error {
	var skipped [4 << 10]byte
	for time.Now().Before(deadline) {
		p.received++
		w := p.wireOf(p.received)
		if !w.readBy(p.inHdr[:], deadline) {
			return nil
		}
		h, err := transport.DecodeHeader(&p.inHdr, frameMagic)
		if err != nil {
			return t.fail(p, err)
		}
		if h.Op.Kind == transport.KindGoodbye {
			var message [collective.MaxFarewell]byte
			got := message[:min(h.Bytes, collective.MaxFarewell)]
			if !w.readBy(got, deadline) {
				return nil
			}
			return t.readGoodbye(p, w, h, got)
		}
		for left := h.Bytes; left > 0; {
			n := min(left, uint64(len(skipped)))
			if !w.readBy(skipped[:n], deadline) {
				return nil
			}
			left -= n
			if time.Now().After(deadline) {
				return nil
			}
		}
	}
	return nil
}
