//go:build fabric && cgo && linux

package fabric

import (
	"net"
	"sync"
	"sync/atomic"

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

// peer is another rank: its share of the endpoint, its connection, and the state of the two directions. Each
// direction has one user at a time.
type peer struct {
	rank int
	base int // its first operation
	conn net.Conn
	mem  []byte // staging

	sent     uint32
	out, in  pinned
	received uint32        // the message that is being received, or was last
	taken    atomic.Uint32 // messages received to their end
	asked    uint32        // headers up to this number are posted

	mu      sync.Mutex
	goodbye []byte // its farewell, once it came
	lost    error  // why its connection ended

	receipt chan struct{} // closed when it has taken all that this rank sent
	left    chan struct{} // closed when it takes no more
	gone    chan struct{} // closed when nothing more comes from it
}

func newPeer(rank, base int, conn net.Conn, mem []byte) *peer {
	return &peer{
		rank: rank, base: base, conn: conn, mem: mem,
		receipt: make(chan struct{}), left: make(chan struct{}), gone: make(chan struct{}),
	}
}

// leave notes that p takes no more. Its watcher calls it.
func (p *peer) leave() {
	select {
	case <-p.left:
	default:
		close(p.left)
	}
}

// end is closed when operation op of p's cannot end well any more.
func (p *peer) end(op int) <-chan struct{} {
	if op >= opSend && op <= opPiece {
		return p.left
	}
	return p.gone
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
	if err := t.post(p, op, func() (bool, error) { return t.ep.recv(p.base+op, p.frame(op), headerTag(p.rank, n)) }); err != nil {
		return err
	}
	p.asked = n
	return nil
}
