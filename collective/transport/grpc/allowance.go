package grpc

import (
	"fmt"
	"sync"

	"github.com/farandole-ml/farandole/collective/transport"
)

// aheadBytes is how much a rank may send to a peer beyond what that peer has asked for, and so how much memory a peer's
// messages may take here. More lets ranks drift further apart; less saves memory. It is part of the protocol.
const aheadBytes = 8 << 20

// grantBytes is how much a receiver takes before it tells the sender so.
const grantBytes = aheadBytes / 4

// allowance is what a sender may still send. HTTP/2 has windows of its own, but they are opened by the goroutine that
// receives all the time: they bound what gRPC holds, not what waits for an operation that has not begun.
type allowance struct {
	more chan struct{} // has a token when there is news

	mu   sync.Mutex
	left int
}

func (a *allowance) init() {
	a.more = make(chan struct{}, 1)
	a.left = aheadBytes
}

// give adds what the peer grants. It fails when that is more than was ever taken.
func (a *allowance) give(n uint64) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if n > uint64(aheadBytes-a.left) {
		return fmt.Errorf("%w: a grant of %d bytes when %d were sent", transport.ErrCorrupt, n, aheadBytes-a.left)
	}
	a.left += int(n)
	select {
	case a.more <- struct{}{}:
	default:
	}
	return nil
}

// tryTake takes n if there is as much.
func (a *allowance) tryTake(n int) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.left < n {
		return false
	}
	a.left -= n
	return true
}

// take waits until it can take n; false means that over or done was closed first.
func (a *allowance) take(n int, over, done <-chan struct{}) bool {
	for !a.tryTake(n) {
		select {
		case <-a.more:
		case <-over:
			return false
		case <-done:
			return false
		}
	}
	return true
}
