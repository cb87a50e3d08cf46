//go:build linux

package shm

import (
	"errors"
	"fmt"
	"io"
	"net"

	"github.com/farandole-ml/farandole/collective"
)

// departure is what is known of a peer that has gone. As an error it ends the waits for it.
type departure struct {
	err    error // a *collective.PeerError
	polite bool  // it was done: what it did before counts, and others may go on
}

func (d *departure) Error() string { return d.err.Error() }
func (d *departure) Unwrap() error { return d.err }

// farewell is the goodbye of a rank that aborted with cause.
func farewell(cause error) note {
	n := note{kind: noteGoodbye, text: string(collective.Farewell(cause))}
	if errors.Is(cause, collective.ErrClosed) {
		n.flags |= flagClosed
	}
	return n
}

// departed is what the goodbye of rank from says to this one.
func (t *member) departed(from int, n note) *departure {
	err := t.readFarewell(n, from, t.marked().Kind)
	return &departure{err: err, polite: n.flags&flagClosed != 0}
}

// lost is the end of rank from's socket without a goodbye.
func (t *member) lost(from int, err error) *departure {
	if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) {
		err = errors.New("closed by the peer")
	}
	return &departure{err: t.blame(from, fmt.Errorf("%w: %w", collective.ErrPeerLost, err))}
}
