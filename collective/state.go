package collective

import (
	"context"
	"fmt"
	"sync"
)

// state is a group's life: who is inside, and the error that ended it.
type state struct {
	marker  Marker
	senders sync.WaitGroup
	over    chan struct{} // closed with the first error

	mu    sync.Mutex
	err   error  // the first one
	users int    // -1 a collective, n > 0 that many point-to-point calls
	seq   uint32 // of the last collective
	kind  OpKind // last marked
}

// set keeps the first error and returns it.
func (s *state) set(err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = err
		close(s.over)
	}
	return s.err
}

func (s *state) failure() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// enter admits one operation. A collective is alone; point-to-point calls may be several.
func (s *state) enter(op Op) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return s.err
	}
	if s.users < 0 || s.users > 0 && op.Kind != OpSendRecv {
		return fmt.Errorf("%w: %v called while %v was running: call one operation at a time", ErrMisuse, op.Kind, s.kind)
	}
	if s.users == 0 {
		if op.Kind != OpSendRecv {
			s.seq++
			op.Seq = s.seq
		}
		if s.marker != nil {
			s.marker.Mark(op)
		}
		s.kind = op.Kind
	}
	if op.Kind == OpSendRecv {
		s.users++
	} else {
		s.users = -1
	}
	return nil
}

func (s *state) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.users = max(s.users, 1) - 1
}

// fail makes err the group's error unless it has one, ends everything, and returns the group's error.
func (g *Group) fail(err error) error {
	err = g.state.set(err)
	g.tr.Abort(err)
	return err
}

func (g *Group) collective(ctx context.Context, op Op, run func() error) error {
	return g.guard(ctx, op, run)
}

func (g *Group) pointToPoint(ctx context.Context, peer int, run func() error) error {
	if peer < 0 || peer >= g.World() || peer == g.Rank() {
		return g.fail(fmt.Errorf("%w: rank %d of %d has no peer %d", ErrMisuse, g.Rank(), g.World(), peer))
	}
	return g.guard(ctx, Op{Kind: OpSendRecv}, run)
}

// guard runs one operation: admits it, aborts the group when ctx ends meanwhile, makes its error the group's.
func (g *Group) guard(ctx context.Context, op Op, run func() error) error {
	if err := g.state.enter(op); err != nil {
		return g.fail(err)
	}
	defer g.state.leave()
	if ctx.Done() != nil {
		if ctx.Err() != nil {
			return g.fail(context.Cause(ctx))
		}
		stop := context.AfterFunc(ctx, func() { _ = g.fail(context.Cause(ctx)) })
		defer stop()
	}
	if err := run(); err != nil {
		return g.fail(err)
	}
	return nil
}
