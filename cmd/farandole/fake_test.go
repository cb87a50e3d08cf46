package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	pb "github.com/farandole-ml/farandole/coordinator/coordinatorpb"
)

// fake is a coordinator with one simulated job, whose behaviour the job's arguments say:
//
//	steps=N step_ms=N     how long it trains
//	fail_at=N             at that step a worker exits with code 7
//	no_cancel             Cancel is answered and ignored
//	nan                   the loss is not a number
//
// What it tells is durable in dir, so that a new fake goes on where a killed one was.
type fake struct {
	pb.UnimplementedCoordinatorServer
	dir string

	mu       sync.Mutex
	changed  chan struct{} // closed and replaced at every change
	saved    fakeState
	history  []*pb.JobEvent
	progress *pb.JobEvent
	falls    []*pb.MemberChange
	calls    []string // Inject, Scale and Cancel as they came
}

type fakeState struct {
	Job    string
	Args   []string
	Step   int64
	Gen    uint64
	World  int
	Formed int // world size of this generation
	Events [][]byte
	Ended  bool
	First  int64 // of this generation
	Ledger []fakeTerm
	Cancel string // "", cancel, save
}

type fakeTerm struct {
	Gen         uint64
	First, Last int64
	World       int
}

func newFake(dir string) *fake {
	f := &fake{dir: dir, changed: make(chan struct{})}
	if b, err := os.ReadFile(f.file()); err == nil {
		if json.Unmarshal(b, &f.saved) == nil {
			for _, e := range f.saved.Events {
				ev := new(pb.JobEvent)
				if proto.Unmarshal(e, ev) == nil {
					f.history = append(f.history, ev)
				}
			}
		}
	}
	return f
}

func (f *fake) file() string { return filepath.Join(f.dir, "fake.json") }

// serve runs the fake until ctx ends; it is what runCoordinator is in tests.
func serveFake(ctx context.Context, cfg coordinatorConfig) error {
	lis, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		return fmt.Errorf("coordinator: cannot listen on %s: %w", cfg.Listen, err)
	}
	f := newFake(cfg.StateDir)
	cfg.Ready(lis.Addr().String())
	return f.serve(ctx, lis)
}

func (f *fake) serve(ctx context.Context, lis net.Listener) error {
	gs := grpc.NewServer()
	pb.RegisterCoordinatorServer(gs, f)
	var wg sync.WaitGroup
	wg.Go(func() { gs.Serve(lis) })
	if f.saved.Job != "" {
		wg.Go(func() { f.train(ctx) })
		f.lock(func() { f.add(change("coordinator", -1, f.saved, "the coordinator is back")) })
	} else {
		wg.Go(func() {
			for ctx.Err() == nil {
				f.mu.Lock()
				job, ch := f.saved.Job, f.changed
				f.mu.Unlock()
				if job != "" {
					f.train(ctx)
					return
				}
				select {
				case <-ch:
				case <-ctx.Done():
				}
			}
		})
	}
	<-ctx.Done()
	gs.Stop()
	wg.Wait()
	return nil
}

func (f *fake) lock(do func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	do()
	f.saved.Events = nil
	for _, e := range f.history {
		b, _ := proto.Marshal(e)
		f.saved.Events = append(f.saved.Events, b)
	}
	if b, err := json.Marshal(f.saved); err == nil && f.dir != "" {
		os.WriteFile(f.file()+".new", b, 0o600)
		os.Rename(f.file()+".new", f.file())
	}
	close(f.changed)
	f.changed = make(chan struct{})
}

func (f *fake) add(e *pb.JobEvent) {
	e.Seq, e.UnixNanos = int64(len(f.history)+1), time.Now().UnixNano()
	f.history = append(f.history, e)
}

func change(kind string, rank int, s fakeState, reason string) *pb.JobEvent {
	return &pb.JobEvent{Of: &pb.JobEvent_Change{Change: &pb.MemberChange{
		Kind: kind, Rank: int32(rank), Member: fmt.Sprintf("w%d", rank), Step: s.Step, Generation: s.Gen, World: int32(s.World), Reason: reason}}}
}

func (f *fake) arg(name string, def int64) int64 {
	for _, a := range f.saved.Args {
		if v, ok := strings.CutPrefix(a, name+"="); ok {
			n, _ := strconv.ParseInt(v, 10, 64)
			return n
		}
	}
	return def
}

func (f *fake) has(word string) bool {
	for _, a := range f.saved.Args {
		if a == word {
			return true
		}
	}
	return false
}

func (f *fake) view() {
	f.closeTerm()
	f.saved.Gen++
	f.saved.Formed = f.saved.World
	f.saved.First = f.saved.Step + 1
	v := &pb.ViewEvent{Generation: f.saved.Gen, Resume: f.saved.Step}
	for i := range f.saved.World {
		v.Members, v.Hosts = append(v.Members, fmt.Sprintf("w%d", i)), append(v.Hosts, "here")
	}
	f.add(&pb.JobEvent{Of: &pb.JobEvent_View{View: v}})
}

func (f *fake) closeTerm() {
	if f.saved.Gen > 0 {
		f.saved.Ledger = append(f.saved.Ledger, fakeTerm{f.saved.Gen, f.saved.First, f.saved.Step, f.saved.Formed})
	}
}

func (f *fake) plan() *pb.Plan {
	return &pb.Plan{Shards: 8, Steps: f.arg("steps", 20), Seed: 1, SamplesPerStep: 16, TokensPerStep: 1024, DatasetLen: 100, Program: "fake"}
}

func (f *fake) train(ctx context.Context) {
	f.lock(func() {
		if f.saved.Gen == 0 {
			f.add(&pb.JobEvent{Of: &pb.JobEvent_Plan{Plan: f.plan()}})
			f.view()
		}
	})
	t := time.NewTicker(time.Duration(f.arg("step_ms", 2)) * time.Millisecond)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		over := false
		f.lock(func() { f.step(); over = f.saved.Ended })
		if over {
			return
		}
	}
}

func (f *fake) step() {
	s := &f.saved
	loss := 3 / float64(s.Step+1)
	end := func(st string, code int32, reason string, fl *pb.Failure) {
		s.Ended = true
		f.closeTerm()
		e := &pb.JobEnded{Status: st, Code: code, Reason: reason, Steps: s.Step, Loss: loss, Plan: f.plan(),
			TrainSeconds: 2, PausedSeconds: 0.5, Failure: fl}
		for _, t := range s.Ledger {
			e.Ledger = append(e.Ledger, &pb.Term{Generation: t.Gen, First: t.First, Last: t.Last, World: int32(t.World)})
		}
		if code == 0 {
			e.WeightsSha256 = "abc123"
		}
		f.add(&pb.JobEvent{Of: &pb.JobEvent_Ended{Ended: e}})
	}
	switch {
	case s.Ended:
		return
	case s.Cancel == "save":
		f.add(&pb.JobEvent{Of: &pb.JobEvent_Saved{Saved: &pb.Saved{Step: s.Step, Path: "/ckpt", Bytes: 10}}})
		end("preempted", exitPreempted, "", nil)
		return
	case s.Cancel == "cancel":
		end("cancelled", exitInterrupted, "cancelled", nil)
		return
	case s.Step == f.arg("fail_at", -1):
		end("failed", exitFailed, "all workers ended by themselves", &pb.Failure{Rank: 0, Member: "w0", Host: "here", Code: 7, Tail: []string{"boom: bad data"}})
		return
	case s.Step == f.arg("starve_at", -1):
		end("starved", exitStarved, "fewer than 2 workers for 30s", nil)
		return
	case s.Step >= f.arg("steps", 20):
		end("done", exitDone, "", nil)
		return
	}
	s.Step++
	for _, c := range f.falls {
		r := proto.Clone(c).(*pb.MemberChange)
		r.Kind, r.Reason, r.ResumeMs, r.DetectMs, r.Step, r.World = "resume", c.Kind, 120, 0, s.Step, int32(s.World)
		f.add(&pb.JobEvent{Of: &pb.JobEvent_Change{Change: r}})
	}
	f.falls = nil
	f.progress = &pb.JobEvent{Seq: int64(len(f.history)), Of: &pb.JobEvent_Progress{Progress: &pb.Progress{
		Step: s.Step, Loss: loss, Generation: s.Gen, World: int32(s.World), TokensPerSecond: 1000}}}
}

func (f *fake) Submit(_ context.Context, r *pb.SubmitRequest) (*pb.SubmitReply, error) {
	f.lock(func() {
		f.saved = fakeState{Job: r.Spec.Name + "-1", Args: r.Spec.Command[1:], World: int(r.Spec.Start)}
	})
	return &pb.SubmitReply{Job: f.saved.Job}, nil
}

func (f *fake) Jobs(context.Context, *pb.JobsRequest) (*pb.JobsReply, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.saved.Job == "" {
		return &pb.JobsReply{}, nil
	}
	st := "running"
	if f.saved.Ended {
		st = "done"
	}
	return &pb.JobsReply{Jobs: []*pb.JobStatus{{Job: f.saved.Job, Status: st, Step: f.saved.Step, World: int32(f.saved.World), Plan: f.plan()}}}, nil
}

func (f *fake) Inject(_ context.Context, r *pb.InjectRequest) (rep *pb.InjectReply, err error) {
	f.lock(func() {
		f.calls = append(f.calls, fmt.Sprintf("inject %d %s %s", r.Rank, r.Signal, time.Duration(r.ContAfterNanos)))
		if int(r.Rank) >= f.saved.World {
			err = status.Errorf(codes.OutOfRange, "there is no rank %d: the world size is %d", r.Rank, f.saved.World)
			return
		}
		rep = &pb.InjectReply{Member: fmt.Sprintf("w%d", r.Rank)}
		e := change("loss", int(r.Rank), f.saved, "ended by signal: killed")
		e.GetChange().DetectMs = 4
		f.falls = append(f.falls, e.GetChange())
		f.add(e)
		f.saved.World--
		f.view()
	})
	return rep, err
}

func (f *fake) Scale(_ context.Context, r *pb.ScaleRequest) (*pb.ScaleReply, error) {
	f.lock(func() {
		f.calls = append(f.calls, fmt.Sprintf("scale %d", r.Add))
		e := change("join", f.saved.World, f.saved, "")
		f.falls = append(f.falls, e.GetChange())
		f.add(e)
		f.saved.World += int(r.Add)
		f.view()
	})
	return &pb.ScaleReply{}, nil
}

func (f *fake) Cancel(_ context.Context, r *pb.CancelRequest) (*pb.CancelReply, error) {
	f.lock(func() {
		f.calls = append(f.calls, fmt.Sprintf("cancel save=%v", r.Save))
		if f.has("no_cancel") {
			return
		}
		f.saved.Cancel = "cancel"
		if r.Save {
			f.saved.Cancel = "save"
		}
	})
	return &pb.CancelReply{}, nil
}

func (f *fake) Watch(r *pb.WatchRequest, st pb.Coordinator_WatchServer) error {
	after := r.After
	var seen *pb.JobEvent
	for {
		f.mu.Lock()
		if f.saved.Job != r.Job {
			f.mu.Unlock()
			return status.Errorf(codes.NotFound, "no job %q here", r.Job)
		}
		events := f.history[min(int(after), len(f.history)):]
		p, ch := f.progress, f.changed
		f.mu.Unlock()
		if p != nil && p != seen {
			seen = p
			if err := st.Send(p); err != nil {
				return err
			}
		}
		for _, e := range events {
			if err := st.Send(e); err != nil {
				return err
			}
			after = e.Seq
			if e.GetEnded() != nil {
				return nil
			}
		}
		select {
		case <-ch:
		case <-st.Context().Done():
			return st.Context().Err()
		}
	}
}

// idleAgent is an agent for the fake, which needs none.
func idleAgent(ctx context.Context, _ agentConfig) error {
	<-ctx.Done()
	return nil
}
