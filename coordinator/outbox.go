package coordinator

import (
	"context"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Queue lengths of one stream. A peer that does not read that much is cut off.
const (
	agentQueue  = 1 << 13
	workerQueue = 256
	helloWait   = 5 * time.Second // for the first message of a stream
)

// outbox is the bounded queue in front of one stream's Send. put never blocks: a full queue closes the stream.
type outbox[T any] struct {
	ch   chan T
	once sync.Once
	done chan struct{}
	err  error // set before done is closed
}

func newOutbox[T any](n int) *outbox[T] {
	return &outbox[T]{ch: make(chan T, n), done: make(chan struct{})}
}

func (o *outbox[T]) put(m T) bool {
	select {
	case <-o.done:
		return false
	default:
	}
	select {
	case o.ch <- m:
		return true
	default:
		o.close(status.Error(codes.ResourceExhausted, "the peer does not read its stream"))
		return false
	}
}

// close ends the stream after what is queued was sent; the first error stays.
func (o *outbox[T]) close(err error) {
	o.once.Do(func() {
		o.err = err
		close(o.done)
	})
}

// drain sends until the outbox or the stream ends, and returns why.
func (o *outbox[T]) drain(ctx context.Context, send func(T) error) error {
	for {
		select {
		case m := <-o.ch:
			if err := send(m); err != nil {
				o.close(err)
				return err
			}
		case <-ctx.Done():
			o.close(ctx.Err())
			return ctx.Err()
		case <-o.done:
			for {
				select {
				case m := <-o.ch:
					if err := send(m); err != nil {
						return err
					}
				default:
					return o.err
				}
			}
		}
	}
}

// recvWithin receives a stream's first message; one that says nothing for d is dropped.
func recvWithin[T any](ctx context.Context, d time.Duration, recv func() (T, error)) (T, error) {
	type got struct {
		m   T
		err error
	}
	ch := make(chan got, 1)
	go func() {
		m, err := recv()
		ch <- got{m, err}
	}()
	t := time.NewTimer(d)
	defer t.Stop()
	var zero T
	select {
	case g := <-ch:
		return g.m, g.err
	case <-ctx.Done():
		return zero, ctx.Err()
	case <-t.C:
		return zero, status.Error(codes.DeadlineExceeded, "no hello")
	}
}
