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
)

// What a peer has of the endpoint's operations and staging memory. Headers are received ahead into ahead places; when a
// peer has said goodbye, the last ones that it sent, for which there may be no such place, are received into the late ones.
const (
	ahead = 4 // the most headers that a sender may have under way

	opAhead = 0
	opSend  = opAhead + ahead
	opLate  = opSend + ahead
	opPiece = opLate + ahead // sends a piece
	opFill  = opPiece + 1    // receives a piece
	peerOps = opFill + 1

	frameBytes = (headerBytes + smallBytes + 4095) / 4096 * 4096 // of staging memory for each of the first three
	pieceBytes = 1 << 20                                         // and for each of the last two
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
const linger = 100 * time.Millisecond

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

	mu      sync.Mutex
	asked   uint32 // headers up to this number are posted
	leaving bool   // it said goodbye: late places are in use from asked+1 on
	last    uint32 // with leaving: the number of its last message
	goodbye []byte // with leaving: its farewell
	lost    error  // why its connection ended

	gone chan struct{} // closed when its connection has ended
}

func (p *peer) frame(op int) []byte {
	return p.mem[op*frameBytes:][:frameBytes]
}

func (p *peer) staged(op int) []byte {
	return p.mem[opPiece*frameBytes+(op-opPiece)*pieceBytes:][:pieceBytes]
}

// place is the operation that receives header number n.
func (p *peer) place(n uint32) (op int, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n <= p.asked {
		return opAhead + int(n%ahead), true
	}
	if late := n - p.asked - 1; p.leaving && n <= p.last && late < ahead {
		return opLate + int(late), true
	}
	return 0, false
}

// ask posts the receipt of the next header, in the place that has become free.
func (t *group) ask(p *peer) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.leaving {
		return nil
	}
	n := p.asked + 1
	op := opAhead + int(n%ahead)
	if err := t.post(p, func() (bool, error) { return t.ep.recv(p.base+op, p.frame(op), headerTag(p.rank, n)) }); err != nil {
		return err
	}
	p.asked = n
	return nil
}

// askLast posts the receipt of what p sent before its goodbye.
func (t *group) askLast(p *peer, last uint32, farewell []byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.leaving, p.last, p.goodbye = true, last, farewell
	for i := range ahead {
		n := p.asked + 1 + uint32(i)
		if n > last {
			return nil
		}
		op := opLate + i
		if err := t.post(p, func() (bool, error) { return t.ep.recv(p.base+op, p.frame(op), headerTag(p.rank, n)) }); err != nil {
			return err
		}
	}
	return nil
}

// A goodbye on a connection: the number of the last message, the length of the farewell, and the farewell.
const goodbyeBytes = 4 + 4

func encodeGoodbye(last uint32, farewell []byte) []byte {
	b := binary.LittleEndian.AppendUint32(nil, last)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(farewell)))
	return append(b, farewell...)
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
		return fmt.Errorf("%w: %w", collective.ErrPeerLost, ended(err))
	}
	farewell := make([]byte, min(binary.LittleEndian.Uint32(b[4:]), collective.MaxFarewell))
	if _, err := io.ReadFull(p.conn, farewell); err != nil {
		return fmt.Errorf("%w: %w", collective.ErrPeerLost, ended(err))
	}
	if !t.enter() {
		return collective.ErrPeerLeft
	}
	defer t.inside.Done()
	if err := t.askLast(p, binary.LittleEndian.Uint32(b[:]), farewell); err != nil {
		return err
	}
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

// ended makes an end of file say what it means here.
func ended(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("closed by the peer")
	}
	return err
}
