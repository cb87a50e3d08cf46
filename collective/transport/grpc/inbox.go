package grpc

import (
	"errors"
	"fmt"
	"io"
	"sync"

	"google.golang.org/grpc/mem"

	"github.com/farandole-ml/farandole/collective/transport"
)

// errExpired and errOver end a wait for the next frame; they never leave the package.
var (
	errExpired = errors.New("deadline passed")
	errOver    = errors.New("group over")
)

// frame is a received frame, or with raw a message of the handshake. data is what follows the header; its holder closes it.
type frame struct {
	transport.Header
	raw  bool
	data *mem.Reader
}

// cost is what a frame counts against the sender's allowance: small frames are not free.
func cost(bytes int) int { return max(bytes, minCost) }

const minCost = 512

// inbox holds what came and was not asked for yet. It has one reader and one writer. Because the writer never waits, a
// peer's frames are all here when its connection ends, and nothing that it sent before is lost.
type inbox struct {
	ready chan struct{} // has a token when there is news
	limit int           // the most that the frames may cost

	mu     sync.Mutex
	frames []frame
	first  int
	held   int
	ended  error // why there will be no more
}

func newInbox(limit int) *inbox {
	return &inbox{ready: make(chan struct{}, 1), limit: limit}
}

// put adds a frame; it fails when the peer sends more than it was allowed.
func (i *inbox) put(f frame) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.ended != nil {
		_ = f.data.Close()
		return i.ended
	}
	i.held += cost(f.data.Remaining())
	if i.held > i.limit {
		return fmt.Errorf("%w: the peer sends ahead by more than the agreed %d bytes", transport.ErrCorrupt, i.limit)
	}
	if i.first > 0 && len(i.frames) == cap(i.frames) {
		n := copy(i.frames, i.frames[i.first:])
		clear(i.frames[n:])
		i.frames, i.first = i.frames[:n], 0
	}
	i.frames = append(i.frames, f)
	i.wake()
	return nil
}

// end says that nothing more will come.
func (i *inbox) end(err error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.ended == nil {
		i.ended = err
	}
	i.wake()
}

func (i *inbox) wake() {
	select {
	case i.ready <- struct{}{}:
	default:
	}
}

// take gives the next frame. Its error is errOver or errExpired when these channels are closed first, else that of end.
func (i *inbox) take(over, expired <-chan struct{}) (frame, error) {
	for {
		if f, ok, err := i.poll(); ok || err != nil {
			return f, err
		}
		select {
		case <-i.ready:
		case <-over:
			return frame{}, errOver
		case <-expired:
			return frame{}, errExpired
		}
	}
}

func (i *inbox) poll() (f frame, ok bool, err error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.first == len(i.frames) {
		return frame{}, false, i.ended
	}
	f = i.frames[i.first]
	i.frames[i.first] = frame{}
	if i.first++; i.first == len(i.frames) {
		i.frames, i.first = i.frames[:0], 0
	}
	i.held -= cost(f.data.Remaining())
	return f, true, nil
}

// drop frees what nobody will ask for any more.
func (i *inbox) drop() {
	i.end(io.EOF)
	for {
		f, ok, _ := i.poll()
		if !ok {
			return
		}
		_ = f.data.Close()
	}
}

// failure is the error of end.
func (i *inbox) failure() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.ended
}
