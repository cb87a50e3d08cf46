package coordinator

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"path/filepath"
	"sort"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/farandole-ml/farandole/coordinator/coordinatorpb"
)

// server is the gRPC service. It finds jobs and agents; everything about one job happens in that job's goroutine.
type server struct {
	pb.UnimplementedCoordinatorServer

	stopped <-chan struct{} // closed when the service ends
	group   *errgroup.Group
	cfg     Config
	store   *store
	metrics *metrics
	agents  *agents

	mu   sync.Mutex
	jobs map[string]*job
}

func newServer(ctx context.Context, g *errgroup.Group, cfg Config, st *store) *server {
	s := &server{stopped: ctx.Done(), group: g, cfg: cfg, store: st, metrics: newMetrics(), jobs: map[string]*job{}}
	s.agents = newAgents(cfg.Liveness, cfg.Logger, s.poke)
	g.Go(func() error { return s.agents.run(ctx) })
	return s
}

// restore brings back the jobs of an earlier life.
func (s *server) restore() error {
	all, err := s.store.jobs()
	if err != nil {
		return err
	}
	for _, v := range all {
		history, err := s.store.events(v.ID)
		if err != nil {
			return err
		}
		j, err := restoreJob(s, v, history)
		if err != nil {
			return err
		}
		s.jobs[v.ID] = j
		s.group.Go(func() error { return j.run(s.stopped) })
	}
	return nil
}

// poke lets every job look for slots again.
func (s *server) poke() {
	for _, j := range s.list() {
		j.post(j.reconcile)
	}
}

// list gives the jobs, oldest first: the order in which they get slots.
func (s *server) list() []*job {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]*job, 0, len(s.jobs))
	for _, j := range s.jobs {
		out = append(out, j)
	}
	sort.Slice(out, func(a, b int) bool { return out[a].saved.Created.Before(out[b].saved.Created) })
	return out
}

func (s *server) job(id string) (*job, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if j := s.jobs[id]; j != nil {
		return j, nil
	}
	return nil, status.Errorf(codes.NotFound, "no job %q here: see `farandole jobs`", id)
}

// Limits of what a client may ask for.
const (
	maxWorkers = 1 << 12
	maxCommand = 1 << 16 // bytes of program and arguments
	maxJobs    = 1 << 12
)

func checkSpec(sp *pb.JobSpec) error {
	size := 0
	for _, a := range sp.GetCommand() {
		size += len(a)
	}
	switch {
	case len(sp.GetCommand()) == 0:
		return status.Error(codes.InvalidArgument, "no program given")
	case size > maxCommand:
		return status.Errorf(codes.InvalidArgument, "the command line has %d bytes; at most %d fit", size, maxCommand)
	case sp.Min < 0 || sp.Max < 0 || sp.Start < 0 || sp.Min > maxWorkers || sp.Max > maxWorkers:
		return status.Errorf(codes.InvalidArgument, "worker counts must lie between 0 and %d", maxWorkers)
	case sp.Max > 0 && sp.Min > sp.Max:
		return status.Errorf(codes.InvalidArgument, "min %d is larger than max %d", sp.Min, sp.Max)
	case sp.SettleNanos < 0 || sp.LivenessNanos < 0 || sp.ReportNanos < 0 || sp.CheckpointEvery < 0 || sp.MaxRestarts < 0:
		return status.Error(codes.InvalidArgument, "settle, liveness, checkpoint interval and restarts must not be negative")
	}
	return nil
}

// Submit starts a job; its workers are spawned wherever agents offer slots.
func (s *server) Submit(_ context.Context, r *pb.SubmitRequest) (*pb.SubmitReply, error) {
	if err := checkSpec(r.GetSpec()); err != nil {
		return nil, err
	}
	name := r.Spec.Name
	if name == "" {
		name = filepath.Base(r.Spec.Command[0])
	}
	id := name + "-" + token(3)
	j, err := newJob(s, id, r.Spec)
	if err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	s.mu.Lock()
	if len(s.jobs) >= maxJobs {
		s.mu.Unlock()
		return nil, status.Errorf(codes.ResourceExhausted, "%d jobs are kept here already: use another state directory", maxJobs)
	}
	s.jobs[id] = j
	s.mu.Unlock()
	s.group.Go(func() error { return j.run(s.stopped) })
	j.post(j.reconcile)
	time.AfterFunc(slotPatience, func() { j.post(j.sayIfShort) })
	s.cfg.Logger.Info("job submitted", "job", id, "command", r.Spec.Command)
	return &pb.SubmitReply{Job: id}, nil
}

// Jobs lists all jobs, oldest first, and the workers of one if that is asked for.
func (s *server) Jobs(ctx context.Context, r *pb.JobsRequest) (*pb.JobsReply, error) {
	out := &pb.JobsReply{}
	for _, j := range s.list() {
		var st *pb.JobStatus
		if err := j.call(ctx, func() { st = j.status(j.id == r.WorkersOf) }); err != nil {
			return nil, err
		}
		out.Jobs = append(out.Jobs, st)
	}
	return out, nil
}

// Inject sends a signal to the worker that has a rank in the current view.
func (s *server) Inject(ctx context.Context, r *pb.InjectRequest) (*pb.InjectReply, error) {
	j, err := s.job(r.Job)
	if err != nil {
		return nil, err
	}
	var member string
	var ierr error
	if err := j.call(ctx, func() { member, ierr = j.inject(r) }); err != nil {
		return nil, err
	}
	return &pb.InjectReply{Member: member}, ierr
}

// Scale offers more slots for a job on one of its agents.
func (s *server) Scale(_ context.Context, r *pb.ScaleRequest) (*pb.ScaleReply, error) {
	if _, err := s.job(r.Job); err != nil {
		return nil, err
	}
	if r.Add < 1 || r.Add > maxWorkers {
		return nil, status.Errorf(codes.InvalidArgument, "add between 1 and %d workers", maxWorkers)
	}
	if !s.agents.addSlots(int(r.Add)) {
		return nil, status.Error(codes.FailedPrecondition, "no agent is attached: start one with `farandole agent`")
	}
	s.poke()
	return &pb.ScaleReply{}, nil
}

// Cancel ends a job, with save only after a checkpoint at a step boundary.
func (s *server) Cancel(ctx context.Context, r *pb.CancelRequest) (*pb.CancelReply, error) {
	j, err := s.job(r.Job)
	if err != nil {
		return nil, err
	}
	return &pb.CancelReply{}, j.call(ctx, func() { j.cancel(r.Save) })
}

func token(n int) string {
	b := make([]byte, n)
	if _, err := rand.Read(b); err != nil {
		panic(fmt.Sprintf("coordinator: no randomness: %v", err))
	}
	return hex.EncodeToString(b)
}

// monotonic is the time since the process started, for elastic.State.
func monotonic() time.Duration { return time.Since(processStart) }

var processStart = time.Now()
