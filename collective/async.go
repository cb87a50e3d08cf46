package collective

import (
	"context"
	"sync"
	"sync/atomic"
)

// MaxInFlight is how many operations of Start may wait in a group and its sub-groups together; one more waits in Start.
const MaxInFlight = 64

// Handle is an operation that was started.
type Handle struct {
	run  func() error
	done chan struct{}
	err  error // written before done is closed
}

// Done is closed when the operation has ended.
func (h *Handle) Done() <-chan struct{} { return h.done }

// Wait waits for the operation's end and gives its error. It may be called more than once, from any goroutine, also
// when the group has ended.
func (h *Handle) Wait() error {
	<-h.done
	return h.err
}

func (h *Handle) finish(err error) {
	h.err = err
	close(h.done)
}

// queue has the operations that were started, in order, and the goroutine that runs them.
type queue struct {
	pending atomic.Int64 // in calls, and the one that runs

	mu      sync.Mutex // held while a call waits for room, so that calls keep their order
	calls   chan *Handle
	last    *Handle
	running bool
}

// Start begins c and returns at once, unless MaxInFlight operations wait already. The operations of a group and its
// sub-groups run one after the other in the order of Start; one that fails fails the later ones. c's buffers belong to
// the operation until the Handle is done. ctx counts from now on: when it ends while the operation
// waits for its turn, that fails as its run would.
func (g *Group) Start(ctx context.Context, c Call) *Handle {
	h := &Handle{done: make(chan struct{})}
	h.run = func() error { return g.do(ctx, &c) }
	q := &g.queue
	q.mu.Lock()
	defer q.mu.Unlock()
	if err := g.startRunner(); err != nil {
		h.finish(err)
		return h
	}
	q.pending.Add(1)
	q.last = h
	select {
	case q.calls <- h:
	case <-g.state.over:
		q.pending.Add(-1)
		h.finish(g.state.failure())
	}
	return h
}

// startRunner makes sure that somebody runs what is queued; the error is that of a dead group. The caller holds the queue's mu.
func (e *endpoint) startRunner() error {
	s, q := &e.state, &e.queue
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return s.err
	}
	if !q.running {
		q.running = true
		q.calls = make(chan *Handle, MaxInFlight)
		s.senders.Go(e.runQueue)
	}
	return nil
}

func (e *endpoint) runQueue() {
	q := &e.queue
	for {
		select {
		case h := <-q.calls:
			q.end(h, h.run())
		case <-e.state.over:
			q.mu.Lock()
			defer q.mu.Unlock()
			for {
				select {
				case h := <-q.calls:
					q.end(h, e.state.failure())
				default:
					return
				}
			}
		}
	}
}

func (q *queue) end(h *Handle, err error) {
	q.pending.Add(-1)
	h.finish(err)
}

// await is a synchronous call's wait for its turn behind those that were started.
func (e *endpoint) await(ctx context.Context) error {
	q := &e.queue
	if q.pending.Load() == 0 {
		return nil
	}
	q.mu.Lock()
	h := q.last
	q.mu.Unlock()
	select {
	case <-h.done:
		return nil
	case <-ctx.Done():
		return e.state.fail(context.Cause(ctx))
	}
}
