package collective

import "sync/atomic"

// outbox is a running operation as a sender sees it: messages numbered from zero for each peer.
// Message k is asked for after k+1 messages were released to that peer.
type outbox interface {
	message(to, k int) []byte
}

// eagerBytes is the largest message that an operation sends by itself. For a larger one it pays to let another
// goroutine send while the operation receives.
const eagerBytes = 64 << 10

// sender sends one peer's messages of the running operation: small ones at once on the operation's own goroutine; the
// rest, from the first one that is large or that the transport cannot take at once, on a goroutine beside it.
// That goroutine starts with the first operation that needs it and lives as long as the group, so that an operation
// in steady state starts nothing and allocates nothing.
type sender struct {
	g  *endpoint
	to int

	// of the running operation
	box   outbox
	total int
	next  int          // messages sent by the operation itself
	ready atomic.Int64 // messages released so far
	aside bool         // the goroutine has the rest

	started bool
	jobs    chan int      // messages that were sent before
	wake    chan struct{} // something was released
	ended   chan struct{} // the job is done or the group is dead
	gone    chan struct{} // closed when the goroutine has ended
}

func newSender(g *endpoint, to int) *sender {
	return &sender{
		g: g, to: to,
		jobs:  make(chan int, 1),
		wake:  make(chan struct{}, 1),
		ended: make(chan struct{}, 1),
		gone:  make(chan struct{}),
	}
}

// post starts sending total messages of box to rank to, the first ready of which may go at once.
func (g *endpoint) post(to int, box outbox, ready, total int) *sender {
	s := g.out[to]
	s.box, s.total, s.next, s.aside = box, total, 0, false
	s.ready.Store(int64(ready))
	g.posted = append(g.posted, s)
	s.push()
	return s
}

// release lets one more message go, if there is one.
func (s *sender) release() {
	s.ready.Add(1)
	if !s.aside {
		s.push()
		return
	}
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// push sends what is ready, as far as that needs no waiting, and leaves the rest to the goroutine.
func (s *sender) push() {
	for ; s.next < min(int(s.ready.Load()), s.total); s.next++ {
		b := s.box.message(s.to, s.next)
		if len(b) == 0 {
			continue
		}
		if s.g.eager == nil || len(b) > eagerBytes {
			s.handOver()
			return
		}
		if ok, err := s.g.eager.TrySend(s.to, b); err != nil {
			_ = s.g.state.fail(err) // the operation's next Recv, or its settle, returns it
			return
		} else if !ok {
			s.handOver()
			return
		}
	}
}

func (s *sender) handOver() {
	st := &s.g.state
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.err != nil {
		return
	}
	if !s.started {
		s.started = true
		st.senders.Go(s.loop)
	}
	s.aside = true
	s.jobs <- s.next
}

// settle ends the sending part of an operation whose receiving part ended with err. Once it returns, no sender
// reads the operation's buffers.
func (g *endpoint) settle(err error) error {
	if err != nil {
		_ = g.state.fail(err)
	}
	for _, s := range g.posted {
		if s.aside {
			select {
			case <-s.ended:
			case <-s.gone: // the group died before the job was taken up
			}
		}
		s.box = nil
	}
	g.posted = g.posted[:0]
	return g.state.failure()
}

func (s *sender) loop() {
	defer close(s.gone)
	for {
		select {
		case from := <-s.jobs:
			s.run(from)
			s.ended <- struct{}{}
		case <-s.g.state.over:
			return
		}
	}
}

func (s *sender) run(from int) {
	for k := from; k < s.total; k++ {
		for int64(k) >= s.ready.Load() {
			select {
			case <-s.wake:
			case <-s.g.state.over:
				return
			}
		}
		if b := s.box.message(s.to, k); len(b) > 0 {
			if err := s.g.tr.Send(s.to, b); err != nil {
				_ = s.g.state.fail(err)
				return
			}
		}
	}
}
