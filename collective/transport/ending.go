package transport

import (
	"errors"
	"io"
	"sync"
)

// Ending is how a group ends: once, for its first cause. Its methods may be called from any goroutine.
type Ending struct {
	over chan struct{}

	mu    sync.Mutex // guards cause, and is held while the group ends
	cause error
}

// NewEnding is for a group that begins.
func NewEnding() *Ending { return &Ending{over: make(chan struct{})} }

// Over is closed by the first End, before it calls f.
func (e *Ending) Over() <-chan struct{} { return e.over }

// IsOver says whether Over is closed.
func (e *Ending) IsOver() bool {
	select {
	case <-e.over:
		return true
	default:
		return false
	}
}

// End ends the group because of cause by f, unless it has ended. Every End returns after f has.
func (e *Ending) End(cause error, f func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.cause != nil {
		return
	}
	e.cause = cause
	close(e.over)
	f()
}

// Cause is why the group has ended, when f has returned; nil when it has not.
func (e *Ending) Cause() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.cause
}

// Ended makes an end of file say what it means between ranks.
func Ended(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("closed by the peer")
	}
	return err
}
