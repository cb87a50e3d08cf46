//go:build fabric && cgo && linux

package fabric

import (
	"errors"
	"time"

	"github.com/farandole-ml/farandole/collective"
)

// enter begins a use of the endpoint; false means that the group is over.
func (t *group) enter() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.err != nil {
		return false
	}
	t.inside.Add(1)
	return true
}

// leave ends an operation with p that ended with err, and gives the group's error if it failed.
func (t *group) leave(p *peer, err error) error {
	if err == nil {
		if t.ep.flying.Load() > 0 {
			select {
			case t.kick <- struct{}{}:
			default:
			}
		}
		t.inside.Done()
		return nil
	}
	t.mu.Lock()
	t.interrupted = true
	t.mu.Unlock()
	switch {
	case t.isOver():
	case errors.Is(err, errGone):
		t.Abort(t.verdict(p))
	default:
		t.Abort(&collective.PeerError{Rank: p.rank, Op: t.op.Kind.String(), Err: err})
	}
	t.inside.Done()
	<-t.closed
	return t.cause()
}

// verdict is the error of a rank whose peer p has gone.
func (t *group) verdict(p *peer) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.goodbye != nil {
		return collective.ReadFarewell(p.goodbye, p.rank, t.id.Rank, len(t.peers), t.op.Kind)
	}
	return &collective.PeerError{Rank: p.rank, Op: t.op.Kind.String(), Err: p.lost}
}

// Abort implements collective.Transport.
func (t *group) Abort(cause error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.err != nil {
		return
	}
	t.err = cause
	close(t.over)
	t.ending.Go(func() { t.end(cause) })
}

// Close implements collective.Transport. It waits until the peers have taken what was sent, for leaveTimeout at most.
func (t *group) Close() error {
	t.Abort(collective.ErrClosed)
	t.ending.Wait()
	t.watching.Wait()
	return nil
}

// end tells the peers and closes everything.
func (t *group) end(cause error) {
	defer close(t.closed)
	if t.ep == nil {
		return
	}
	t.ep.nudge()
	t.inside.Wait()
	farewell := collective.Farewell(cause)
	for _, p := range t.peers {
		if p != nil {
			_ = p.conn.SetWriteDeadline(time.Now().Add(linger))
			_, _ = p.conn.Write(encodeGoodbye(farewell, p.sent)) // a peer that does not get it sees the connection end
		}
	}
	wait := linger
	if errors.Is(cause, collective.ErrClosed) {
		wait = leaveTimeout
	}
	t.mu.Lock()
	if t.interrupted {
		wait = 0 // what was sent is of no use any more
	}
	t.mu.Unlock()
	for late := time.Now().Add(wait); time.Now().Before(late) && !t.taken(); {
		t.ep.poll(pollSpins, 1)
	}
	t.ep.close()
	for _, p := range t.peers {
		if p != nil {
			p.conn.Close()
		}
	}
}

// taken says whether every peer has taken all that was sent, or takes no more.
func (t *group) taken() bool {
	for _, p := range t.peers {
		if p == nil {
			continue
		}
		select {
		case <-p.receipt:
		case <-p.left:
		default:
			return false
		}
	}
	return true
}
