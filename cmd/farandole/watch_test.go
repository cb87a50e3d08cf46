package main

import (
	"context"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/farandole-ml/farandole/coordinator/coordinatorpb"
)

// scriptedWatch is a coordinator that answers each Watch by the next of its parts, and then has none left. It runs in
// the bubble of a synctest, whose clock only moves when all wait.
type scriptedWatch struct {
	pb.CoordinatorClient
	parts  []part
	after  []int64
	frozen bool // Jobs does not answer
}

// part is what one stream carries: it ends as part does, nil being the end of a stream in order.
type part func(ctx context.Context, send func(*pb.JobEvent) error) error

func (s *scriptedWatch) Watch(ctx context.Context, r *pb.WatchRequest, _ ...grpc.CallOption) (grpc.ServerStreamingClient[pb.JobEvent], error) {
	s.after = append(s.after, r.After)
	if len(s.parts) == 0 {
		return nil, status.Error(codes.Unavailable, "gone")
	}
	p := s.parts[0]
	s.parts = s.parts[1:]
	st := &scriptedStream{ctx: ctx, events: make(chan *pb.JobEvent)}
	go func() {
		defer close(st.events)
		st.end = p(ctx, func(e *pb.JobEvent) error {
			select {
			case st.events <- e:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	}()
	return st, nil
}

type scriptedStream struct {
	grpc.ClientStream
	ctx    context.Context //nolint:containedctx // as a gRPC stream has
	events chan *pb.JobEvent
	end    error // set before events is closed
}

func (s *scriptedStream) Recv() (*pb.JobEvent, error) {
	if e, ok := <-s.events; ok {
		return e, nil
	}
	if s.end == nil {
		return nil, io.EOF
	}
	return nil, s.end
}

func (s *scriptedWatch) Jobs(ctx context.Context, _ *pb.JobsRequest, _ ...grpc.CallOption) (*pb.JobsReply, error) {
	if s.frozen {
		<-ctx.Done()
		return nil, status.FromContextError(ctx.Err()).Err()
	}
	return &pb.JobsReply{}, nil
}

func kept(seq int64) *pb.JobEvent {
	return &pb.JobEvent{Seq: seq, Of: &pb.JobEvent_Change{Change: &pb.MemberChange{Kind: "join", Step: seq}}}
}

func endedEvent(seq int64) *pb.JobEvent {
	return &pb.JobEvent{Seq: seq, Of: &pb.JobEvent_Ended{Ended: &pb.JobEnded{Status: "done"}}}
}

func send(events ...*pb.JobEvent) part {
	return func(_ context.Context, send func(*pb.JobEvent) error) error {
		for _, e := range events {
			if err := send(e); err != nil {
				return err
			}
		}
		return nil
	}
}

func end(err error) part {
	return func(context.Context, func(*pb.JobEvent) error) error { return err }
}

func watchAll(t *testing.T, w *watcher) (seqs []int64, err error) {
	t.Helper()
	events, done := make(chan *pb.JobEvent), make(chan error, 1)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	go func() { done <- w.run(ctx, events); close(events) }()
	for e := range events {
		seqs = append(seqs, e.Seq)
	}
	return seqs, <-done
}

func TestWatchGoesOnAfterTheLastKeptEvent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		progress := &pb.JobEvent{Seq: 2, Of: &pb.JobEvent_Progress{Progress: &pb.Progress{Step: 1}}}
		s := &scriptedWatch{parts: []part{
			send(kept(1), kept(2), progress),
			end(status.Error(codes.Unavailable, "restarting")),
			send(kept(2), kept(3)), // a server that repeats itself
			send(endedEvent(4)),
		}}
		w := &watcher{client: s, job: "j", silence: time.Minute, giveUp: time.Minute}
		seqs, err := watchAll(t, w)
		require.NoError(t, err)
		require.Equal(t, []int64{1, 2, 2, 3, 4}, seqs, "progress is delivered, a repeated kept event is not")
		require.Equal(t, []int64{0, 2, 2, 3}, s.after)
	})
}

func TestWatchDeliversTheEndEvenFromAServerThatForgot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &scriptedWatch{parts: []part{send(kept(5)), send(endedEvent(1))}}
		w := &watcher{client: s, job: "j", silence: time.Minute, giveUp: time.Minute}
		seqs, err := watchAll(t, w)
		require.NoError(t, err)
		require.Equal(t, []int64{5, 1}, seqs)
	})
}

func TestWatchGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		w := &watcher{client: &scriptedWatch{}, job: "j", silence: time.Minute, giveUp: 10 * time.Second}
		_, err := watchAll(t, w)
		require.ErrorIs(t, err, errWatchLost)
		require.InDelta(t, 10, time.Since(start).Seconds(), watchRetryMax.Seconds())
	})
}

func TestWatchOfAnUnknownJobEndsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &scriptedWatch{parts: []part{end(status.Error(codes.NotFound, "no job"))}}
		w := &watcher{client: s, job: "j", silence: time.Minute, giveUp: time.Minute}
		_, err := watchAll(t, w)
		require.Equal(t, codes.NotFound, status.Code(err))
	})
}

func TestWatchLeavesAFrozenCoordinator(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hang := func(ctx context.Context, _ func(*pb.JobEvent) error) error { <-ctx.Done(); return ctx.Err() }
		s := &scriptedWatch{frozen: true, parts: []part{hang, send(endedEvent(1))}}
		w := &watcher{client: s, job: "j", silence: time.Second, giveUp: time.Minute}
		start := time.Now()
		seqs, err := watchAll(t, w)
		require.NoError(t, err)
		require.Equal(t, []int64{1}, seqs)
		require.Len(t, s.after, 2, "the silent stream was left for another")
		require.Equal(t, 2*time.Second+watchRetryMin, time.Since(start), "a silence, and as long for the question")
	})
}

func TestWatchIsPatientWithAQuietJob(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		quiet := func(_ context.Context, send func(*pb.JobEvent) error) error {
			time.Sleep(20 * time.Second)
			return send(endedEvent(1))
		}
		s := &scriptedWatch{parts: []part{quiet}}
		w := &watcher{client: s, job: "j", silence: time.Second, giveUp: 5 * time.Second}
		_, err := watchAll(t, w)
		require.NoError(t, err)
		require.Len(t, s.after, 1, "the coordinator answers, so the stream stays")
	})
}
