package collective

import "sync/atomic"

// outbox is a running operation as a sender sees it: messages numbered from zero for each peer.
// Message k is asked for after k+1 messages were released to that peer.
type outbox interface {
	message(to, k int) []byte
}

// sender hands one peer's messages to the transport, beside the operation's own goroutine, which receives.
// Its goroutine starts with the first operation that sends to the peer and lives as long as the group, so that
// an operation in steady state starts nothing and allocates nothing.
type sender struct {
	g       *Group
	to      int
	started bool
	jobs    chan job
	wake    chan struct{} // something was released
	ended   chan struct{} // the job is done or the group is dead
	gone    chan struct{} // closed when the goroutine has ended
	ready   atomic.Int64  // messages released so far
}

type job struct {
	box   outbox
	total int
}

func newSender(g *Group, to int) *sender {
	return &sender{
		g: g, to: to,
		jobs:  make(chan job, 1),
		wake:  make(chan struct{}, 1),
		ended: make(chan struct{}, 1),
		gone:  make(chan struct{}),
	}
}

// start makes sure that the sender's goroutine runs; it does not once the group is dead.
func (s *sender) start() bool {
	st := &s.g.state
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.err != nil {
		return false
	}
	if !s.started {
		s.started = true
		st.senders.Go(s.loop)
	}
	return true
}

// post starts sending total messages of box to rank to, the first ready of which may go at once.
func (g *Group) post(to int, box outbox, ready, total int) *sender {
	s := g.out[to]
	if total > 0 && s.start() {
		s.ready.Store(int64(ready))
		g.posted = append(g.posted, s)
		s.jobs <- job{box, total}
	}
	return s
}

// release lets one more message go.
func (s *sender) release() {
	s.ready.Add(1)
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// settle ends the sending part of an operation whose receiving part ended with err. Once it returns, no sender
// reads the operation's buffers.
func (g *Group) settle(err error) error {
	if err != nil {
		g.fail(err)
	}
	for _, s := range g.posted {
		select {
		case <-s.ended:
		case <-s.gone: // the group died before the job was taken up
		}
	}
	g.posted = g.posted[:0]
	return g.state.failure()
}

func (s *sender) loop() {
	defer close(s.gone)
	for {
		select {
		case j := <-s.jobs:
			s.run(j)
			s.ended <- struct{}{}
		case <-s.g.state.over:
			return
		}
	}
}

func (s *sender) run(j job) {
	for k := range j.total {
		for int64(k) >= s.ready.Load() {
			select {
			case <-s.wake:
			case <-s.g.state.over:
				return
			}
		}
		if b := j.box.message(s.to, k); len(b) > 0 {
			if err := s.g.tr.Send(s.to, b); err != nil {
				s.g.fail(err)
				return
			}
		}
	}
}
