//go:build linux

package shm

import (
	"errors"
	"fmt"
	"io"
	"net"

	"github.com/farandole-ml/farandole/collective"
)

var (
	// errLost is a socket's end without a goodbye.
	errLost = errors.New("connection lost")
	// errLeft is a goodbye that blames nobody.
	errLeft = errors.New("left the group")
)

// departure is what is known of a peer that has gone. As an error it ends the waits for it.
type departure struct {
	rank   int
	err    error
	polite bool // it was done: what it did before counts, and others may go on
}

func (d *departure) Error() string { return d.err.Error() }
func (d *departure) Unwrap() error { return d.err }

// farewell is the goodbye of a rank that aborted with cause.
func farewell(cause error) note {
	n := note{kind: noteGoodbye, blamed: -1, text: cause.Error()}
	var pe *collective.PeerError
	if errors.As(cause, &pe) {
		n.blamed, n.text = pe.Rank, pe.Err.Error()
	}
	var step *collective.OutOfStepError
	if errors.As(cause, &step) {
		n.flags |= flagOutOfStep
		n.got, n.want = step.Got, step.Want
	}
	if errors.Is(cause, collective.ErrGenerationChanged) {
		n.flags |= flagMoved
	}
	if errors.Is(cause, collective.ErrClosed) {
		n.flags |= flagClosed
	}
	return n
}

// departed is what the goodbye of rank from says to rank in a group of world.
func departed(n note, from, rank, world int) *departure {
	step := n.flags&flagOutOfStep != 0
	switch {
	case n.blamed < 0 && n.flags&flagMoved != 0:
		return &departure{rank: from, err: collective.ErrPeerMoved}
	case n.blamed < 0:
		return &departure{rank: from, err: fmt.Errorf("%w: %q", errLeft, n.text), polite: n.flags&flagClosed != 0}
	case n.blamed == rank && step:
		return &departure{rank: from, err: &collective.OutOfStepError{Got: n.want, Want: n.got}}
	case n.blamed == rank || n.blamed >= world:
		return &departure{rank: from, err: fmt.Errorf("%w: it gave this rank up: %q", errLost, n.text)}
	case n.blamed == from:
		return &departure{rank: from, err: fmt.Errorf("%w: %q", errLeft, n.text)}
	case step:
		return &departure{rank: n.blamed, err: &collective.OutOfStepError{Got: n.got, Want: n.want, Witness: from + 1}}
	}
	return &departure{rank: n.blamed, err: fmt.Errorf("%w, reported by rank %d: %q", errLost, from, n.text)}
}

// lost is the end of rank from's socket without a goodbye.
func lost(from int, err error) *departure {
	if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) {
		err = errors.New("closed by the peer")
	}
	return &departure{rank: from, err: fmt.Errorf("%w: %w", errLost, err)}
}
