package grpc

import (
	"fmt"
	"sync/atomic"

	"google.golang.org/grpc/mem"
)

// copyBytes is up to where a message is copied into a buffer of gRPC's, so that its sender need not wait until gRPC has
// written it. It is also the largest message that TrySend takes.
const copyBytes = 64 << 10

// outgoing is a message to be sent: head, then body. Both are copied, unless lease is given: then gRPC reads body where
// it is, and the lease says until when. head is at most transport.HeaderBytes long and body longer than copyBytes then.
type outgoing struct {
	head  []byte
	body  []byte
	lease *lease
}

// incoming is a received message. Whoever holds it closes it.
type incoming struct{ data *mem.Reader }

// rawCodec passes bytes through: gRPC's framing around them is the only encoding.
type rawCodec struct{}

func (rawCodec) Name() string { return "farandole-raw" }

func (rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	m, ok := v.(*outgoing)
	if !ok {
		return nil, fmt.Errorf("grpc: %T is no data message", v)
	}
	if m.lease != nil {
		head := make(mem.SliceBuffer, len(m.head))
		copy(head, m.head)
		m.lease.taken.Add(1)
		return mem.BufferSlice{head, mem.NewBuffer(&m.body, m.lease)}, nil
	}
	pool := mem.DefaultBufferPool()
	buf := pool.Get(len(m.head) + len(m.body))
	copy((*buf)[copy(*buf, m.head):], m.body)
	return mem.BufferSlice{mem.NewBuffer(buf, pool)}, nil
}

func (rawCodec) Unmarshal(data mem.BufferSlice, v any) error {
	m, ok := v.(*incoming)
	if !ok {
		return fmt.Errorf("grpc: %T is no data message", v)
	}
	m.data = data.Reader()
	return nil
}

// lease counts the buffers that gRPC has of one sender. gRPC hands a buffer back, by Put, when it has written it.
type lease struct {
	taken atomic.Int32
	idle  chan struct{} // gets a token when the count falls to zero
}

func newLease() *lease { return &lease{idle: make(chan struct{}, 1)} }

// Get implements mem.BufferPool. Nothing calls it: buffers come from the callers of Send.
func (l *lease) Get(int) *[]byte { panic("grpc: a lease has no buffers to give") }

// Put implements mem.BufferPool.
func (l *lease) Put(*[]byte) {
	if l.taken.Add(-1) == 0 {
		select {
		case l.idle <- struct{}{}:
		default:
		}
	}
}

// begin opens a lease for one message.
func (l *lease) begin() { l.taken.Store(1) }

// end waits until gRPC has handed everything back, or cannot touch it any more because the connection has ended.
func (l *lease) end(ended <-chan struct{}) {
	l.Put(nil)
	select {
	case <-l.idle:
	case <-ended:
	}
}
