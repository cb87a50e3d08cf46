package collective

import (
	"context"
	"fmt"
	"sync"
)

// state is the life of a group and its sub-groups on this rank: who is inside, and the error that ended it.
type state struct {
	tr      Transport
	marker  Marker
	senders sync.WaitGroup // and the runner of Start
	over    chan struct{}  // closed with the first error

	mu    sync.Mutex
	err   error  // the first one
	users int    // -1 a collective, n > 0 that many point-to-point calls
	kind  OpKind // last marked
	watch *watch // of the last operation's context
}

// watch is a context whose end aborts the group while an operation under it runs. It stays when the operation is over,
// because the next one is likely to come with the same context, and to register anew would be an allocation.
type watch struct {
	done   <-chan struct{}
	stop   func() bool
	inside int // operations under it; guarded by the state's mu
}

// set keeps the first error and returns it.
func (s *state) set(err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.setLocked(err)
}

func (s *state) setLocked(err error) error {
	if s.err == nil {
		s.err = err
		close(s.over)
		if s.watch != nil {
			s.watch.stop()
			s.watch = nil
		}
	}
	return s.err
}

func (s *state) failure() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// fail makes err the group's error unless it has one, ends everything, and returns the group's error.
func (s *state) fail(err error) error {
	err = s.set(err)
	s.tr.Abort(err)
	return err
}

// enter admits one operation, and gives it the next number of its group. A collective is alone; point-to-point calls may be several.
func (s *state) enter(ctx context.Context, op *Op, seq *uint32) (*watch, error) {
	done := ctx.Done()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return nil, s.err
	}
	if s.users < 0 || s.users > 0 && op.Kind != OpSendRecv {
		return nil, fmt.Errorf("%w: %v called while %v was running: call one operation at a time", ErrMisuse, op.Kind, s.kind)
	}
	if done != nil {
		select {
		case <-done:
			return nil, context.Cause(ctx)
		default:
		}
	}
	if s.users == 0 {
		if op.Kind != OpSendRecv {
			*seq++
			op.Seq = *seq
		}
		if s.marker != nil {
			s.marker.Mark(*op)
		}
		s.kind = op.Kind
	}
	if op.Kind == OpSendRecv {
		s.users++
	} else {
		s.users = -1
	}
	if done == nil {
		return nil, nil
	}
	return s.observe(ctx, done), nil
}

// observe registers an operation under ctx. The caller holds mu.
func (s *state) observe(ctx context.Context, done <-chan struct{}) *watch {
	w := s.watch
	if w == nil || w.done != done {
		w = &watch{done: done}
		w.stop = context.AfterFunc(ctx, func() { s.expire(w, context.Cause(ctx)) })
		if s.watch == nil || s.watch.inside == 0 {
			if s.watch != nil {
				s.watch.stop()
			}
			s.watch = w
		}
	}
	w.inside++
	return w
}

// expire ends the group when an operation runs under w, whose context has ended.
func (s *state) expire(w *watch, cause error) {
	s.mu.Lock()
	if w.inside == 0 {
		s.mu.Unlock()
		return
	}
	err := s.setLocked(cause)
	s.mu.Unlock()
	s.tr.Abort(err)
}

func (s *state) leave(w *watch) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.users = max(s.users, 1) - 1
	if w == nil {
		return
	}
	w.inside--
	if w != s.watch {
		w.stop()
	}
}
