//go:build fabric && cgo && linux

package fabric

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/farandole-ml/farandole/collective"
	"github.com/farandole-ml/farandole/collective/transport"
)

// What ranks say on their connections once the group stands, little-endian:
//
//	goodbye:  the farewell's length  4 bytes, not allTaken
//	          messages sent          4
//	          the farewell
//	receipt:  allTaken               4
//
// A rank that leaves in order says goodbye and keeps its endpoint until every peer has given a receipt, or has said
// goodbye itself and so takes no more, or has gone: providers exist (ofi_rxm) that report a send as delivered when it has
// only been handed on, and lose it when the sender closes. A peer gives its receipt when it has taken every message.
const (
	goodbyeBytes = 8
	allTaken     = ^uint32(0)
)

const (
	// linger is how long the end of a group may take to reach a peer that does not answer.
	linger = 200 * time.Millisecond

	// leaveTimeout is how long a rank that leaves in order waits for receipts.
	leaveTimeout = 5 * time.Second
)

func encodeGoodbye(farewell []byte, sent uint32) []byte {
	b := binary.LittleEndian.AppendUint32(nil, uint32(len(farewell)))
	return append(binary.LittleEndian.AppendUint32(b, sent), farewell...)
}

func encodeReceipt() []byte { return binary.LittleEndian.AppendUint32(nil, allTaken) }

// watch reads p's connection until it ends or p has said goodbye and everything of p's has been taken.
func (t *group) watch(p *peer) {
	err := t.listen(p)
	p.mu.Lock()
	p.lost = err
	p.mu.Unlock()
	p.leave()
	close(p.gone)
	if t.enter() {
		t.ep.nudge()
		t.inside.Done()
	}
}

func (t *group) listen(p *peer) error {
	var b [goodbyeBytes]byte
	for receipts := 0; ; receipts++ {
		if _, err := io.ReadFull(p.conn, b[:4]); err != nil {
			return fmt.Errorf("%w: %w", collective.ErrPeerLost, transport.Ended(err))
		}
		if binary.LittleEndian.Uint32(b[:]) != allTaken {
			break
		}
		if receipts > 0 {
			return fmt.Errorf("%w: %w: a second receipt", collective.ErrPeerLost, transport.ErrCorrupt)
		}
		close(p.receipt)
	}
	if _, err := io.ReadFull(p.conn, b[4:]); err != nil {
		return fmt.Errorf("%w: %w", collective.ErrPeerLost, transport.Ended(err))
	}
	farewell := make([]byte, min(binary.LittleEndian.Uint32(b[:]), collective.MaxFarewell))
	if _, err := io.ReadFull(p.conn, farewell); err != nil {
		return fmt.Errorf("%w: %w", collective.ErrPeerLost, transport.Ended(err))
	}
	p.mu.Lock()
	p.goodbye = farewell
	p.mu.Unlock()
	p.leave()
	t.finish(p, binary.LittleEndian.Uint32(b[4:]))
	return collective.ErrPeerLeft
}

// finish makes progress until this rank has taken p's messages up to number last, and then gives p its receipt. It ends
// too when p's connection does, and when this rank will take no more, which its own goodbye tells p.
func (t *group) finish(p *peer, last uint32) {
	for p.taken.Load() != last {
		if !t.enter() {
			return
		}
		t.ep.poll(0, 0)
		t.inside.Done()
		if !p.quiet(time.Millisecond) {
			return
		}
	}
	_ = p.conn.SetWriteDeadline(time.Now().Add(linger))
	_, _ = p.conn.Write(encodeReceipt()) // a peer that does not get it waits for its own limit
}

// quiet waits and says whether p's connection still stands and has brought nothing.
func (p *peer) quiet(d time.Duration) bool {
	var b [1]byte
	_ = p.conn.SetReadDeadline(time.Now().Add(d))
	_, err := p.conn.Read(b[:])
	return errors.Is(err, os.ErrDeadlineExceeded)
}
