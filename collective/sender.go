package collective

import (
	"sync/atomic"

	"github.com/farandole-ml/farandole/kernels"
)

// eagerBytes is the largest message that an operation sends by itself. For a larger one it pays to let another
// goroutine send while the operation receives.
const eagerBytes = 64 << 10

// sender sends one peer's messages of the running operation: small ones at once on the operation's own goroutine; the
// rest, from the first one that is large or that the transport cannot take at once, on a goroutine beside it.
// That goroutine starts with the first operation that needs it and lives as long as the group, so that an operation
// in steady state starts nothing and allocates nothing.
//
// A Duplex needs no such goroutine: what it cannot take at once is sent while the operation waits to receive. Handing
// messages to another goroutine and back costs more than that of a medium-sized buffer, where cores are few.
type sender struct {
	e  *endpoint
	to int

	// of the running operation
	box    *box
	narrow bool
	next   int          // messages sent by the operation itself
	begun  []byte       // the next one, when a Duplex has not taken all of it
	ready  atomic.Int64 // messages released so far
	aside  bool         // the goroutine has the rest

	stage   []byte // a narrow message
	started bool
	jobs    chan int      // messages that were sent before
	wake    chan struct{} // something was released
	ended   chan struct{} // the job is done or the group is dead
	gone    chan struct{} // closed when the goroutine has ended
}

func newSender(e *endpoint, to int) *sender {
	return &sender{
		e: e, to: to,
		jobs:  make(chan int, 1),
		wake:  make(chan struct{}, 1),
		ended: make(chan struct{}, 1),
		gone:  make(chan struct{}),
	}
}

// post starts sending b's messages to the transport's rank to.
func (e *endpoint) post(to int, b *box, narrow bool) {
	s := e.out[to]
	s.box, s.narrow, s.next, s.begun, s.aside = b, narrow, 0, nil, false
	s.ready.Store(int64(b.ready))
	if e.duplex != nil && len(e.posted) == 0 {
		e.duplex.Meanwhile(e.pushAll)
	}
	e.posted = append(e.posted, s)
	s.push()
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

// message is what the k-th message looks like on the wire. It is asked for twice when the transport could not take
// it at once; it is the same both times.
func (s *sender) message(k int) []byte {
	at := s.box.messages[k]
	b := s.e.memory.bytes(at)
	if !s.narrow || at.buf == bufToken {
		return b
	}
	stage := grow(&s.stage, len(b)/2)
	kernels.EncodeBF16(stage, floats(b))
	return stage
}

// push sends what is ready, as far as that needs no waiting, and leaves the rest to the goroutine.
func (s *sender) push() {
	if s.e.duplex != nil {
		s.pushDuplex()
		return
	}
	for ; s.next < min(int(s.ready.Load()), len(s.box.messages)); s.next++ {
		if s.e.eager == nil || s.box.messages[s.next].len() > eagerBytes {
			s.handOver()
			return
		}
		if ok, err := s.e.eager.TrySend(s.to, s.message(s.next)); err != nil {
			_ = s.e.state.fail(err) // the operation's next Recv, or its settle, returns it
			return
		} else if !ok {
			s.handOver()
			return
		}
	}
}

// pushDuplex sends what is ready, as far as that needs no waiting.
func (s *sender) pushDuplex() {
	for s.next < min(int(s.ready.Load()), len(s.box.messages)) {
		if s.begun == nil {
			s.begun = s.message(s.next)
		}
		ok, err := s.e.duplex.TrySend(s.to, s.begun)
		if err != nil {
			_ = s.e.state.fail(err)
			return
		}
		if !ok {
			return
		}
		s.begun = nil
		s.next++
	}
}

// push is what a Duplex calls.
func (e *endpoint) push() {
	for _, s := range e.posted {
		s.pushDuplex()
	}
}

func (s *sender) handOver() {
	st := &s.e.state
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

// flush waits until all messages are on their way. All must have been released.
func (e *endpoint) flush() error {
	if e.duplex != nil {
		return e.flushDuplex()
	}
	for _, s := range e.posted {
		if s.aside {
			select {
			case <-s.ended:
			case <-s.gone: // the group died before the job was taken up
			}
			s.aside = false
			s.next = len(s.box.messages)
		}
	}
	return e.state.failure()
}

func (e *endpoint) flushDuplex() error {
	for {
		e.push()
		if err := e.state.failure(); err != nil {
			return err
		}
		left := false
		for _, s := range e.posted {
			left = left || s.next < len(s.box.messages)
		}
		if !left {
			return nil
		}
		if err := e.duplex.Room(); err != nil {
			return e.state.fail(err)
		}
	}
}

// settle ends the sending part of an operation whose receiving part ended with err. Once it returns, no sender
// reads the operation's buffers.
func (e *endpoint) settle(err error) error {
	if err != nil {
		_ = e.state.fail(err)
	}
	err = e.flush()
	for _, s := range e.posted {
		s.box, s.begun = nil, nil
	}
	if e.duplex != nil && len(e.posted) > 0 {
		e.duplex.Meanwhile(nil)
	}
	e.posted = e.posted[:0]
	return err
}

func (s *sender) loop() {
	defer close(s.gone)
	for {
		select {
		case from := <-s.jobs:
			s.run(from)
			s.ended <- struct{}{}
		case <-s.e.state.over:
			return
		}
	}
}

func (s *sender) run(from int) {
	for k := from; k < len(s.box.messages); k++ {
		for int64(k) >= s.ready.Load() {
			select {
			case <-s.wake:
			case <-s.e.state.over:
				return
			}
		}
		if err := s.e.tr.Send(s.to, s.message(k)); err != nil {
			_ = s.e.state.fail(err)
			return
		}
	}
}
