//go:build fabric && cgo && linux

package fabric

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/farandole-ml/farandole/collective"
	"github.com/farandole-ml/farandole/collective/transport"
)

// What a peer has of the endpoint's operations and staging memory. Headers are received ahead into ahead places.
const (
	ahead = 4 // the most headers that a sender may have under way

	opAhead = 0
	opSend  = opAhead + ahead
	opPiece = opSend + ahead // sends a piece
	opFill  = opPiece + 1    // receives a piece
	peerOps = opFill + 1

	frameBytes = (transport.HeaderBytes + smallBytes + 4095) / 4096 * 4096 // of staging memory for each of the first two kinds
	pieceBytes = 1 << 20                                                   // and for each of the last two kinds
	peerBytes  = opPiece*frameBytes + 2*pieceBytes

	maxPieceBytes = 1 << 30 // without staging
	maxNameBytes  = 512     // of an endpoint's address
)

// isSmallSend says whether an operation of the endpoint's sends a header and a small message: nobody waits for its end.
func isSmallSend(op int) bool {
	op %= peerOps
	return op >= opSend && op < opSend+ahead
}

// linger is how long the end of a group may take to reach a peer that does not answer.
const linger = 200 * time.Millisecond

// peer is another rank: its share of the endpoint, its connection, and the state of the two directions. Each
// direction has one user at a time.
type peer struct {
	rank int
	base int // its first operation
	conn net.Conn
	mem  []byte // staging

	sent     uint32
	out, in  pinned
	received uint32
	asked    uint32 // headers up to this number are posted

	mu      sync.Mutex
	goodbye []byte // its farewell, once it came
	lost    error  // why its connection ended

	gone chan struct{} // closed when its connection has ended
}

func (p *peer) frame(op int) []byte {
	return p.mem[op*frameBytes:][:frameBytes]
}

func (p *peer) staged(op int) []byte {
	return p.mem[opPiece*frameBytes+(op-opPiece)*pieceBytes:][:pieceBytes]
}

// ask posts the receipt of the next header, in the place that has become free.
func (t *group) ask(p *peer) error {
	n := p.asked + 1
	op := opAhead + int(n%ahead)
	if err := t.post(p, func() (bool, error) { return t.ep.recv(p.base+op, p.frame(op), headerTag(p.rank, n)) }); err != nil {
		return err
	}
	p.asked = n
	return nil
}

// A goodbye on a connection: the length of the farewell, and the farewell.
const goodbyeBytes = 4

func encodeGoodbye(farewell []byte) []byte {
	return append(binary.LittleEndian.AppendUint32(nil, uint32(len(farewell))), farewell...)
}

// watch reads p's connection until it ends, which is the end of p.
func (t *group) watch(p *peer) {
	err := t.listen(p)
	p.mu.Lock()
	p.lost = err
	p.mu.Unlock()
	close(p.gone)
	if t.enter() {
		t.ep.nudge()
		t.inside.Done()
	}
}

func (t *group) listen(p *peer) error {
	var b [goodbyeBytes]byte
	if _, err := io.ReadFull(p.conn, b[:]); err != nil {
		return fmt.Errorf("%w: %w", collective.ErrPeerLost, transport.Ended(err))
	}
	farewell := make([]byte, min(binary.LittleEndian.Uint32(b[:]), collective.MaxFarewell))
	if _, err := io.ReadFull(p.conn, farewell); err != nil {
		return fmt.Errorf("%w: %w", collective.ErrPeerLost, transport.Ended(err))
	}
	if !t.enter() {
		return collective.ErrPeerLeft
	}
	defer t.inside.Done()
	p.mu.Lock()
	p.goodbye = farewell
	p.mu.Unlock()
	// Until p closes the connection it waits for what it sent to be delivered, and that takes progress here.
	for over := time.Now().Add(2 * linger); time.Now().Before(over); {
		t.ep.poll(0, 0)
		_ = p.conn.SetReadDeadline(time.Now().Add(time.Millisecond))
		if _, err := p.conn.Read(b[:1]); !errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
		if t.isOver() {
			break
		}
	}
	return collective.ErrPeerLeft
}
