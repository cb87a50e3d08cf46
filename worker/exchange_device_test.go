package worker

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/stretchr/testify/require"

	"github.com/farandole-ml/farandole/kernels"
)

var _ kernels.Exchanger = (*sharedDevice)(nil)

// fakeMeeting is where the ranks of an exchange find each other.
type fakeMeeting struct {
	mu    sync.Mutex
	here  int
	links map[[2]int]chan []float32 // by sender and receiver
	full  chan struct{}             // closed when all have come
	gone  chan struct{}             // closed when one has left
}

// fakeExchange does what it must when its device does, and not before.
type fakeExchange struct {
	d           *sharedDevice
	m           *fakeMeeting
	rank, world int
	ctx         context.Context //nolint:containedctx // of the Sync that runs
	err         error
	closed      bool
}

var errGone = errors.New("a rank is gone")

func (d *sharedDevice) Place() ([]byte, error) {
	return []byte(cmp.Or(d.gpu, fmt.Sprintf("%p", d))), d.refuses("place")
}

func (d *sharedDevice) NewExchange() ([]byte, error) {
	if err := d.refuses("id"); err != nil {
		return nil, err
	}
	d.host.mu.Lock()
	defer d.host.mu.Unlock()
	d.host.meetings = append(d.host.meetings, &fakeMeeting{links: map[[2]int]chan []float32{}, full: make(chan struct{}), gone: make(chan struct{})})
	return binary.LittleEndian.AppendUint32(nil, uint32(len(d.host.meetings)-1)), nil
}

func (d *sharedDevice) JoinExchange(ctx context.Context, id []byte, rank, world int) (kernels.Exchange, error) {
	h := d.host
	h.mu.Lock()
	m := h.meetings[binary.LittleEndian.Uint32(id)]
	h.open++
	h.joins++
	h.mu.Unlock()
	x := &fakeExchange{d: d, m: m, rank: rank, world: world}
	if err := d.refuses("join"); err != nil {
		_ = x.Close()
		return nil, err
	}
	m.mu.Lock()
	if m.here++; m.here == world {
		close(m.full)
	}
	m.mu.Unlock()
	select {
	case <-m.full:
		return x, nil
	case <-m.gone:
		_ = x.Close()
		return nil, errGone
	case <-ctx.Done():
		_ = x.Close()
		return nil, context.Cause(ctx)
	}
}

func (d *sharedDevice) Upload(dst kernels.Buffer, src []float32) {
	to, values := dst.(*sharedBuffer), slices.Clone(src)
	require.Len(d.t, to.x, len(src))
	d.enqueue(to, func() { copy(to.x, values) })
}

// link has room for all that is sent in one step.
func (m *fakeMeeting) link(from, to int) chan []float32 {
	m.mu.Lock()
	defer m.mu.Unlock()
	l := m.links[[2]int{from, to}]
	if l == nil {
		l = make(chan []float32, 10000)
		m.links[[2]int{from, to}] = l
	}
	return l
}

func (x *fakeExchange) Swap(ctx context.Context, sends, recvs []kernels.Message) error {
	if x.closed || x.err != nil {
		return cmp.Or(x.err, errGone)
	}
	if err := cmp.Or(ctx.Err(), x.d.refuses("swap")); err != nil {
		x.err = err
		_ = x.Close()
		return err
	}
	sends, recvs = slices.Clone(sends), slices.Clone(recvs)
	for _, m := range recvs {
		require.Same(x.d.t, x.d, m.Buffer.(*sharedBuffer).owner, "what is received is written to the device's own memory")
	}
	x.d.swaps++
	x.d.queue = append(x.d.queue, func() {
		for _, m := range sends {
			values := slices.Clone(m.Buffer.(*sharedBuffer).x)
			if x.d.garble {
				x.d.garble = false
				values[0]++
			}
			x.m.link(x.rank, m.Peer) <- values
		}
		for _, m := range recvs {
			x.receive(m)
		}
	})
	return nil
}

// receive waits for a message, which counts although its sender has left since. After one that did not come, nothing is received: the
// next on its link could come meanwhile, and be taken for another.
func (x *fakeExchange) receive(m kernels.Message) {
	if x.err != nil {
		return
	}
	l := x.m.link(m.Peer, x.rank)
	var got []float32
	select {
	case got = <-l:
	default:
		select {
		case got = <-l:
		case <-x.m.gone:
			x.err = cmp.Or(x.err, errGone)
			return
		case <-x.ctx.Done():
			x.err = cmp.Or(x.err, context.Cause(x.ctx))
			return
		}
	}
	to := m.Buffer.(*sharedBuffer).x
	require.Len(x.d.t, got, len(to), "what is sent is as long as what is wanted")
	copy(to, got)
}

func (x *fakeExchange) Sync(ctx context.Context) error {
	if x.closed || x.err != nil {
		return cmp.Or(x.err, errGone)
	}
	x.ctx = ctx
	err := x.d.work()
	x.d.swaps = 0
	if x.err != nil {
		_ = x.Close()
		return x.err
	}
	return err
}

// Close has what is enqueued do nothing, as a device's receive that is ended.
func (x *fakeExchange) Close() error {
	if x.closed {
		return nil
	}
	x.closed = true
	x.d.queue, x.d.swaps = nil, 0
	x.m.mu.Lock()
	select {
	case <-x.m.gone:
	default:
		close(x.m.gone)
	}
	x.m.mu.Unlock()
	x.d.host.mu.Lock()
	defer x.d.host.mu.Unlock()
	x.d.host.open--
	return nil
}
