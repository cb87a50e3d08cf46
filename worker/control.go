package worker

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	pb "github.com/farandole-ml/farandole/coordinator/coordinatorpb"
	"github.com/farandole-ml/farandole/elastic"
)

// Limits of the control stream.
const (
	firstRetry  = 50 * time.Millisecond // after a lost stream; doubles up to
	lastRetry   = time.Second
	orphanLimit = 60 // × Liveness without coordinator and working group, then the worker ends
)

// control keeps the stream to the coordinator, until ctx ends. It never keeps training waiting.
func (s *Session) control(ctx context.Context) {
	conn, err := grpc.NewClient(s.cfg.Coordinator,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDisableServiceConfig(),
		grpc.WithInitialWindowSize(pb.WindowBytes), grpc.WithInitialConnWindowSize(pb.WindowBytes),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: firstRetry, Multiplier: 2, Jitter: 0.2, MaxDelay: lastRetry},
			MinConnectTimeout: max(time.Second, s.cfg.Liveness),
		}))
	if err != nil {
		s.pos.end(2, &UsageError{fmt.Sprintf("FARANDOLE_COORDINATOR=%q is no address: %v", s.cfg.Coordinator, err)})
		return
	}
	defer func() { _ = conn.Close() }()
	client := pb.NewCoordinatorClient(conn)
	retry := firstRetry
	for again := false; ctx.Err() == nil; again = true {
		if again && s.holdHello != nil {
			s.holdHello()
		}
		welcomed, err := s.attach(ctx, client)
		s.pos.contact(time.Now())
		if ctx.Err() != nil {
			return
		}
		if welcomed {
			retry = firstRetry
		}
		if !s.fit && status.Code(err) == codes.InvalidArgument {
			s.pos.end(1, err)
			return // the coordinator does not hear a worker without a plan; the agent tells it of the exit
		}
		s.log.Info("no coordinator; training goes on while the group works", "addr", s.cfg.Coordinator, "err", err)
		select {
		case <-time.After(retry/2 + rand.N(retry)):
		case <-ctx.Done():
		}
		retry = min(2*retry, lastRetry)
	}
}

// attach is one stream's life.
func (s *Session) attach(ctx context.Context, client pb.CoordinatorClient) (welcomed bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := client.Attach(ctx)
	if err != nil {
		return false, err
	}
	fence, err := s.pos.steady(ctx)
	if err != nil {
		return false, err
	}
	opening := []*pb.WorkerMessage{s.hello(fence)}
	if !s.fit {
		s.mail.reopen()
		opening = append(opening, s.mail.collect()...) // it is not to be taken for a member in between
	}
	for _, m := range opening {
		if err := stream.Send(m); err != nil {
			_, err = stream.Recv() // has the status
			return false, err
		}
	}
	first, err := stream.Recv()
	if err != nil {
		return false, err
	}
	s.pos.contact(time.Time{})
	liveness := s.cfg.Liveness
	if l := time.Duration(first.GetWelcome().GetLivenessNanos()); l > 0 {
		liveness = l
	}
	report := time.Duration(first.GetWelcome().GetReportNanos())
	if err := s.command(first); err != nil { // a refusal comes in a welcome's place
		return false, err
	}
	s.mail.reopen()
	var eg errgroup.Group
	eg.Go(func() error {
		defer cancel()
		return s.mail.send(ctx, stream, elastic.LimitsOf(liveness).Heartbeat, report)
	})
	eg.Go(func() error {
		defer cancel()
		for {
			c, err := stream.Recv()
			if err != nil {
				return err
			}
			if err := s.command(c); err != nil {
				return err
			}
		}
	})
	return true, eg.Wait()
}

// send writes letters as they come, and heartbeats: every interval, and after a commit as soon as the last heartbeat is as old as
// report, if that is not zero. More of them would take time from a machine whose cores all compute.
func (m *mailbox) send(ctx context.Context, stream pb.Coordinator_AttachClient, interval, report time.Duration) error {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	soon := time.NewTimer(0)
	defer soon.Stop()
	step := m.step
	if report == 0 {
		step = nil
	}
	var last time.Time
	for {
		beat := false
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-m.kick:
		case <-step:
			soon.Reset(report - time.Since(last))
			step = nil // until then
		case <-soon.C:
			beat = true
			if report > 0 {
				step = m.step
			}
		case <-tick.C:
			beat = true
		}
		for _, msg := range m.collect() {
			if err := stream.Send(msg); err != nil {
				return err
			}
		}
		if beat {
			last = time.Now()
			tick.Reset(interval)
			if err := stream.Send(m.heartbeat()); err != nil {
				return err
			}
		}
	}
}

// hello has no plan when the program cannot train: what follows is why.
func (s *Session) hello(f elastic.Fence) *pb.WorkerMessage {
	p := s.plan
	h := &pb.Hello{
		Job:    s.cfg.Job,
		Member: &pb.Member{Id: string(s.cfg.Member), Host: s.cfg.Host, Class: p.Class, LocalRank: int32(s.cfg.LocalRank)},
		Pid:    int32(os.Getpid()),
	}
	if s.fit {
		if s.saver != nil {
			f.Checkpoint = s.saver.newest()
		}
		h.Member.Addr, h.Fence = s.listener.Addr(), fenceToPB(f)
		h.Plan = &pb.Plan{
			Shards: int32(p.Shards), Steps: p.Steps, Seed: p.Seed, SamplesPerStep: p.SamplesPerStep,
			TokensPerStep: p.TokensPerStep, DatasetLen: p.DatasetLen, Program: p.Program,
		}
	}
	return &pb.WorkerMessage{Of: &pb.WorkerMessage_Hello{Hello: h}}
}
