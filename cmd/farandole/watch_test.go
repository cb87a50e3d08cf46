package main

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/farandole-ml/farandole/coordinator/coordinatorpb"
)

// scriptedWatch answers each Watch by the next of its parts; then it ends the stream.
type scriptedWatch struct {
	pb.UnimplementedCoordinatorServer
	mu     sync.Mutex
	parts  []func(after int64, st pb.Coordinator_WatchServer) error
	after  []int64
	frozen bool // Jobs does not answer
}

func (s *scriptedWatch) Watch(r *pb.WatchRequest, st pb.Coordinator_WatchServer) error {
	s.mu.Lock()
	s.after = append(s.after, r.After)
	if len(s.parts) == 0 {
		s.mu.Unlock()
		return status.Error(codes.Unavailable, "gone")
	}
	part := s.parts[0]
	s.parts = s.parts[1:]
	s.mu.Unlock()
	return part(r.After, st)
}

func (s *scriptedWatch) Jobs(ctx context.Context, _ *pb.JobsRequest) (*pb.JobsReply, error) {
	if s.frozen {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return &pb.JobsReply{}, nil
}

func serveWatch(t *testing.T, s *scriptedWatch) *client {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	gs := grpc.NewServer()
	pb.RegisterCoordinatorServer(gs, s)
	done := make(chan struct{})
	go func() { defer close(done); gs.Serve(lis) }()
	c, err := dial(lis.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() { c.Close(); gs.Stop(); <-done })
	return c
}

func kept(seq int64) *pb.JobEvent {
	return &pb.JobEvent{Seq: seq, Of: &pb.JobEvent_Change{Change: &pb.MemberChange{Kind: "join", Step: seq}}}
}

func endedEvent(seq int64) *pb.JobEvent {
	return &pb.JobEvent{Seq: seq, Of: &pb.JobEvent_Ended{Ended: &pb.JobEnded{Status: "done"}}}
}

func send(events ...*pb.JobEvent) func(int64, pb.Coordinator_WatchServer) error {
	return func(_ int64, st pb.Coordinator_WatchServer) error {
		for _, e := range events {
			if err := st.Send(e); err != nil {
				return err
			}
		}
		return nil
	}
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
	progress := &pb.JobEvent{Seq: 2, Of: &pb.JobEvent_Progress{Progress: &pb.Progress{Step: 1}}}
	s := &scriptedWatch{parts: []func(int64, pb.Coordinator_WatchServer) error{
		send(kept(1), kept(2), progress),
		func(int64, pb.Coordinator_WatchServer) error { return status.Error(codes.Unavailable, "restarting") },
		send(kept(2), kept(3)), // a server that repeats itself
		send(endedEvent(4)),
	}}
	w := &watcher{client: serveWatch(t, s), job: "j", silence: time.Minute, giveUp: time.Minute}
	seqs, err := watchAll(t, w)
	require.NoError(t, err)
	require.Equal(t, []int64{1, 2, 2, 3, 4}, seqs, "progress is delivered, a repeated kept event is not")
	require.Equal(t, []int64{0, 2, 2, 3}, s.after)
}

func TestWatchDeliversTheEndEvenFromAServerThatForgot(t *testing.T) {
	s := &scriptedWatch{parts: []func(int64, pb.Coordinator_WatchServer) error{send(kept(5)), send(endedEvent(1))}}
	w := &watcher{client: serveWatch(t, s), job: "j", silence: time.Minute, giveUp: time.Minute}
	seqs, err := watchAll(t, w)
	require.NoError(t, err)
	require.Equal(t, []int64{5, 1}, seqs)
}

func TestWatchGivesUp(t *testing.T) {
	w := &watcher{client: serveWatch(t, &scriptedWatch{}), job: "j", silence: time.Minute, giveUp: 100 * time.Millisecond}
	_, err := watchAll(t, w)
	require.ErrorIs(t, err, errWatchLost)
}

func TestWatchOfAnUnknownJobEndsAtOnce(t *testing.T) {
	s := &scriptedWatch{parts: []func(int64, pb.Coordinator_WatchServer) error{
		func(int64, pb.Coordinator_WatchServer) error { return status.Error(codes.NotFound, "no job") },
	}}
	w := &watcher{client: serveWatch(t, s), job: "j", silence: time.Minute, giveUp: time.Minute}
	_, err := watchAll(t, w)
	require.Equal(t, codes.NotFound, status.Code(err))
}

func TestWatchLeavesAFrozenCoordinator(t *testing.T) {
	hang := func(_ int64, st pb.Coordinator_WatchServer) error { <-st.Context().Done(); return nil }
	s := &scriptedWatch{frozen: true, parts: []func(int64, pb.Coordinator_WatchServer) error{hang, send(endedEvent(1))}}
	w := &watcher{client: serveWatch(t, s), job: "j", silence: 30 * time.Millisecond, giveUp: time.Minute}
	seqs, err := watchAll(t, w)
	require.NoError(t, err)
	require.Equal(t, []int64{1}, seqs)
	require.Len(t, s.after, 2, "the silent stream was left for another")
}

func TestWatchIsPatientWithAQuietJob(t *testing.T) {
	release := make(chan struct{})
	quiet := func(_ int64, st pb.Coordinator_WatchServer) error { <-release; return st.Send(endedEvent(1)) }
	s := &scriptedWatch{parts: []func(int64, pb.Coordinator_WatchServer) error{quiet}}
	w := &watcher{client: serveWatch(t, s), job: "j", silence: 5 * time.Millisecond, giveUp: time.Minute}
	time.AfterFunc(50*time.Millisecond, func() { close(release) })
	_, err := watchAll(t, w)
	require.NoError(t, err)
	require.Len(t, s.after, 1, "the coordinator answers, so the stream stays")
}
