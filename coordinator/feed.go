package coordinator

import (
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/farandole-ml/farandole/coordinator/coordinatorpb"
)

// Limits of a job's history and of one watcher's queue.
const (
	maxHistory = 1 << 16 // events kept; a job that changes more often loses the oldest
	maxLogs    = 4096    // log batches queued for a slow watcher; then the oldest are dropped
)

// feed is a job's events and those who watch them. Events become visible once they are durable.
type feed struct {
	mu       sync.Mutex // guards all below
	history  []*pb.JobEvent
	seq      int64
	pending  []*pb.JobEvent // not yet durable
	progress *pb.JobEvent   // the latest, not part of the history
	watchers map[*watcher]struct{}
	closed   bool
}

// watcher is one Watch call.
type watcher struct {
	wake chan struct{}  // capacity 1
	logs []*pb.JobEvent // guarded by feed.mu
	want bool
}

func newFeed(history []*pb.JobEvent) *feed {
	f := &feed{history: history, watchers: map[*watcher]struct{}{}}
	if n := len(history); n > 0 {
		f.seq = history[n-1].Seq
	}
	return f
}

// add queues an event for publish.
func (f *feed) add(e *pb.JobEvent) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.seq++
	e.Seq, e.UnixNanos = f.seq, time.Now().UnixNano()
	f.pending = append(f.pending, e)
}

// unsaved gives the events that are to be made durable with the next write.
func (f *feed) unsaved() []*pb.JobEvent {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.pending
}

// publish shows the pending events, which are durable now.
func (f *feed) publish() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.history = append(f.history, f.pending...)
	if over := len(f.history) - maxHistory; over > 0 {
		f.history = append([]*pb.JobEvent(nil), f.history[over:]...)
	}
	f.pending = nil
	f.wakeAll()
}

// ended says whether the last event is the job's end.
func (f *feed) ended() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.history) > 0 && f.history[len(f.history)-1].GetEnded() != nil
}

func (f *feed) setProgress(p *pb.Progress) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.progress = &pb.JobEvent{Seq: f.seq, UnixNanos: p.UnixNanos, Of: &pb.JobEvent_Progress{Progress: p}}
	f.wakeAll()
}

func (f *feed) logs(l *pb.LogLines) {
	f.mu.Lock()
	defer f.mu.Unlock()
	e := &pb.JobEvent{Seq: f.seq, UnixNanos: time.Now().UnixNano(), Of: &pb.JobEvent_Logs{Logs: l}}
	for w := range f.watchers {
		if !w.want {
			continue
		}
		if len(w.logs) >= maxLogs {
			w.logs = w.logs[1:]
		}
		w.logs = append(w.logs, e)
	}
	f.wakeAll()
}

// close lets watchers end after the last event.
func (f *feed) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	f.wakeAll()
}

func (f *feed) wakeAll() {
	for w := range f.watchers {
		select {
		case w.wake <- struct{}{}:
		default:
		}
	}
}

// next collects what a watcher has not seen: logs, history after seq, and progress if it changed.
func (f *feed) next(w *watcher, after int64, seen *pb.JobEvent) (out []*pb.JobEvent, progress *pb.JobEvent, closed bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	out = append(out, w.logs...)
	w.logs = nil
	i := len(f.history)
	for i > 0 && f.history[i-1].Seq > after {
		i--
	}
	out = append(out, f.history[i:]...)
	if f.progress != seen {
		progress = f.progress
	}
	return out, progress, f.closed
}

// Watch streams a job's events.
func (s *server) Watch(r *pb.WatchRequest, st pb.Coordinator_WatchServer) error {
	j, err := s.job(r.Job)
	if err != nil {
		return err
	}
	f, w := j.feed, &watcher{wake: make(chan struct{}, 1), want: r.Logs}
	f.mu.Lock()
	f.watchers[w] = struct{}{}
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		delete(f.watchers, w)
		f.mu.Unlock()
	}()
	after := r.After
	var seen *pb.JobEvent
	for {
		events, progress, closed := f.next(w, after, seen)
		// The newest progress goes before a final event, so that a watcher never shows a bar that ends early.
		if progress != nil {
			seen = progress
			if err := st.Send(progress); err != nil {
				return err
			}
		}
		for _, e := range events {
			if err := st.Send(e); err != nil {
				return err
			}
			if e.GetLogs() == nil {
				after = e.Seq
			}
		}
		if closed {
			return nil
		}
		select {
		case <-w.wake:
		case <-st.Context().Done():
			return st.Context().Err()
		case <-s.stopped:
			return status.Error(codes.Unavailable, "the coordinator is stopping")
		}
	}
}
