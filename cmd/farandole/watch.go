package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/farandole-ml/farandole/coordinator/coordinatorpb"
)

// errWatchLost says that the coordinator stayed away for longer than the watcher waits.
var errWatchLost = errors.New("coordinator is gone")

// watcher delivers a job's events in order across reconnects: a kept event once, progress and logs as they come.
// After a coordinator's crash it goes on behind the last event that it delivered.
type watcher struct {
	client pb.CoordinatorClient
	job    string
	logs   bool

	silence time.Duration // without an event for this long the coordinator is asked whether it lives
	giveUp  time.Duration // without a coordinator for this long the watcher ends with errWatchLost

	last    int64     // seq of the newest kept event
	contact time.Time // when the coordinator was last known to live
}

// Defaults of a watcher. The job itself goes on without its coordinator, so patience costs nothing but certainty.
const (
	watchSilence  = 5 * time.Second
	watchGiveUp   = time.Minute
	watchRetryMin = 20 * time.Millisecond
	watchRetryMax = time.Second
)

// run sends the job's events to out until it sent `ended` (nil), ctx is over, or the coordinator stays away.
func (w *watcher) run(ctx context.Context, out chan<- *pb.JobEvent) error {
	w.contact = time.Now()
	wait := watchRetryMin
	for {
		before := w.contact
		done, err := w.stream(ctx, out)
		switch {
		case done:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		}
		if code := status.Code(err); code == codes.NotFound || code == codes.InvalidArgument || code == codes.Unimplemented {
			return err
		}
		if gone := time.Since(w.contact); gone >= w.giveUp {
			return fmt.Errorf("%w for %s: %w", errWatchLost, gone.Round(time.Second), err)
		}
		if w.contact.After(before) {
			wait = watchRetryMin
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return ctx.Err()
		}
		wait = min(2*wait, watchRetryMax)
	}
}

// stream is one Watch call; done says that the job's last event was delivered.
func (w *watcher) stream(ctx context.Context, out chan<- *pb.JobEvent) (done bool, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	st, err := w.client.Watch(ctx, &pb.WatchRequest{Job: w.job, After: w.last, Logs: w.logs})
	if err != nil {
		return false, err
	}
	type received struct {
		e   *pb.JobEvent
		err error
	}
	in := make(chan received)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			e, err := st.Recv()
			select {
			case in <- received{e, err}:
			case <-ctx.Done():
				return
			}
			if err != nil {
				return
			}
		}
	}()
	defer func() { cancel(nil); <-ended }()

	quiet := time.NewTimer(w.silence)
	defer quiet.Stop()
	for {
		select {
		case <-ctx.Done():
			return false, context.Cause(ctx)
		case <-quiet.C:
			if err := w.probe(ctx); err != nil {
				return false, err
			}
			quiet.Reset(w.silence)
		case r := <-in:
			if errors.Is(r.err, io.EOF) {
				return false, status.Error(codes.Unavailable, "the coordinator stopped")
			}
			if r.err != nil {
				return false, r.err
			}
			w.contact = time.Now()
			quiet.Reset(w.silence)
			if !w.fresh(r.e) {
				continue
			}
			select {
			case out <- r.e:
			case <-ctx.Done():
				return false, context.Cause(ctx)
			}
			if r.e.GetEnded() != nil {
				return true, nil
			}
		}
	}
}

// fresh says whether e is to be delivered, and remembers a kept event.
func (w *watcher) fresh(e *pb.JobEvent) bool {
	if e.GetProgress() != nil || e.GetLogs() != nil {
		return true
	}
	if e.Seq != 0 && e.Seq <= w.last && e.GetEnded() == nil {
		return false
	}
	w.last = max(w.last, e.Seq)
	return true
}

// probe asks a silent coordinator whether it lives: a frozen one, or a dead host, never ends the stream.
func (w *watcher) probe(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, w.silence)
	defer cancel()
	if _, err := w.client.Jobs(ctx, &pb.JobsRequest{}); err != nil {
		return err
	}
	w.contact = time.Now()
	return nil
}
