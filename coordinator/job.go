package coordinator

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	pb "github.com/farandole-ml/farandole/coordinator/coordinatorpb"
	"github.com/farandole-ml/farandole/elastic"
)

// inboxLen bounds what waits for a job's goroutine; senders block beyond it.
const inboxLen = 1024

// job is one job. All fields but inbox, done and feed belong to its goroutine.
type job struct {
	id    string
	srv   *server
	log   *slog.Logger
	inbox chan func()
	done  chan struct{} // closed when the goroutine is over
	feed  *feed

	saved     *saved
	dirty     bool // saved differs from the store
	spec      *pb.JobSpec
	plan      *pb.Plan
	limits    elastic.Limits
	state     *elastic.State
	members   map[elastic.MemberID]*member
	prog      progress
	quietTill time.Time // after a restart: spawn nothing before, agents are still coming back
	saving    bool      // a Cancel with save is under way
	cancelled bool
	failure   *pb.Failure // the first cause
	usage     bool        // the failure is the user's input
	over      bool
	untold    *pb.JobEnded // the end of which watchers do not know yet
	tellBy    time.Time    // when they are told at the latest
	err       error        // durable state cannot be written: the coordinator must stop
}

// member is one worker process, from its spawn to its end.
type member struct {
	id        elastic.MemberID
	agent     string
	stream    uint64 // the agent's, on which it was placed or told of
	host      string
	pid       int32
	rank      int // in the last view that had it; -1 before
	out       *outbox[*pb.WorkerCommand]
	attached  bool // said Hello at least once
	exited    *pb.Exited
	injected  int64 // unix nanos of the last signal that was sent on purpose
	lastHeard time.Time
	finished  *pb.Finished
	device    *pb.DeviceReading // of its last heartbeat; checked, and not changed
}

func newJob(s *server, id string, spec *pb.JobSpec) (*job, error) {
	b, err := proto.Marshal(spec)
	if err != nil {
		return nil, fmt.Errorf("coordinator: encode job: %w", err)
	}
	v := &saved{ID: id, Created: time.Now(), Spec: b, Burnt: map[string]int{}}
	j := makeJob(s, v, spec, nil)
	j.state = elastic.New(j.policy())
	if err := s.store.put(v, nil); err != nil {
		return nil, err
	}
	return j, nil
}

func restoreJob(s *server, v *saved, history []*pb.JobEvent) (*job, error) {
	spec := new(pb.JobSpec)
	if err := proto.Unmarshal(v.Spec, spec); err != nil {
		return nil, fmt.Errorf("coordinator: job %s: %w", v.ID, err)
	}
	if v.Burnt == nil {
		v.Burnt = map[string]int{}
	}
	j := makeJob(s, v, spec, history)
	if len(v.Plan) > 0 {
		j.plan = new(pb.Plan)
		if err := proto.Unmarshal(v.Plan, j.plan); err != nil {
			return nil, fmt.Errorf("coordinator: job %s: %w", v.ID, err)
		}
	}
	if len(v.Ended) > 0 {
		j.over = true
		if e := new(pb.JobEnded); !j.feed.ended() && proto.Unmarshal(v.Ended, e) == nil {
			j.untold = e // an earlier life crashed before it told anybody
		} else {
			j.feed.close()
		}
	}
	if v.Record.Generation == 0 && v.Record.Ended == nil {
		j.state = elastic.New(j.policy())
	} else {
		j.state = elastic.Restore(j.policy(), v.Record, monotonic())
		j.prog.restore(v.Record.View)
	}
	j.quietTill = time.Now().Add(j.limits.Regroup)
	if !j.over {
		j.change(&pb.MemberChange{Kind: "coordinator", Rank: -1, Generation: uint64(v.Record.Generation), Reason: "the coordinator is back"})
	}
	return j, nil
}

func makeJob(s *server, v *saved, spec *pb.JobSpec, history []*pb.JobEvent) *job {
	return &job{
		id: v.ID, srv: s, log: s.cfg.Logger.With("job", v.ID),
		inbox: make(chan func(), inboxLen), done: make(chan struct{}), feed: newFeed(history),
		saved: v, spec: spec, limits: elastic.LimitsOf(time.Duration(spec.LivenessNanos)),
		members: map[elastic.MemberID]*member{},
	}
}

func (j *job) policy() elastic.Policy {
	return elastic.Policy{
		Job: j.id, Min: int(j.spec.Min), Max: int(j.spec.Max), Start: int(j.spec.Start),
		Settle: time.Duration(j.spec.SettleNanos), Liveness: time.Duration(j.spec.LivenessNanos),
	}
}

// run owns the job until the service ends. It returns an error only when the durable state cannot be written.
func (j *job) run(stopped <-chan struct{}) error {
	defer close(j.done)
	defer j.feed.close()
	t := time.NewTicker(j.limits.Heartbeat / 2)
	defer t.Stop()
	if r := j.state.Result(); r != nil && !j.over {
		j.end(*r) // an earlier life decided it and crashed before it told anybody
		j.flush()
	}
	for {
		select {
		case <-stopped:
			return nil
		case f := <-j.inbox:
			f()
		case <-t.C:
			j.step(elastic.Tick{})
			j.conclude()
		}
		j.flush()
		if j.err != nil {
			return j.err
		}
	}
}

// post hands f to the job's goroutine.
func (j *job) post(f func()) {
	select {
	case j.inbox <- f:
	case <-j.done:
	}
}

// call runs f in the job's goroutine and waits for it.
func (j *job) call(ctx context.Context, f func()) error {
	ran := make(chan struct{})
	j.post(func() { f(); close(ran) })
	select {
	case <-ran:
		return nil
	case <-j.done:
		return status.Error(codes.Unavailable, "the coordinator is stopping")
	case <-ctx.Done():
		return status.FromContextError(ctx.Err()).Err()
	}
}

// save makes the job's state and its pending events durable.
func (j *job) save() {
	if j.err != nil {
		return
	}
	if err := j.srv.store.put(j.saved, j.feed.unsaved()); err != nil {
		j.err = err
		return
	}
	j.dirty = false
	j.feed.publish()
}

func (j *job) flush() {
	if j.dirty || len(j.feed.unsaved()) > 0 {
		j.save()
	}
}

// step feeds the state machine and carries out what it says, in order.
func (j *job) step(e elastic.Event) {
	if j.over {
		return
	}
	for _, a := range j.state.Step(monotonic(), e) {
		if j.err != nil {
			return // what was not persisted must not be announced
		}
		j.do(a)
	}
}

func (j *job) do(a elastic.Action) {
	switch a := a.(type) {
	case elastic.Persist:
		j.saved.Record = a.Record
		j.save()
	case elastic.Prepare:
		j.tell(a.To, &pb.WorkerCommand{Of: &pb.WorkerCommand_Prepare{Prepare: &pb.Prepare{
			Generation: uint64(a.Generation), Reason: a.Reason}}})
	case elastic.Announce:
		j.announce(a)
	case elastic.Evict:
		j.evict(a)
	case elastic.Note:
		j.note(a)
	case elastic.Ended:
		j.end(a)
	}
}

func (j *job) tell(id elastic.MemberID, c *pb.WorkerCommand) {
	if m := j.members[id]; m != nil && m.out != nil {
		m.out.put(c)
	}
}

func (j *job) announce(a elastic.Announce) {
	rank := a.View.RankOf(a.To)
	if m := j.members[a.To]; m != nil {
		m.rank = rank
	}
	if j.prog.view(a.View) {
		if j.saved.Started.IsZero() {
			j.saved.Started = time.Now()
		}
		j.dirty = true
		ev := &pb.ViewEvent{Generation: uint64(a.View.Generation), Resume: int64(a.View.Resume)}
		for _, rm := range a.View.Roster {
			ev.Members = append(ev.Members, string(rm.ID))
			ev.Hosts = append(ev.Hosts, rm.Host)
			var pid int32
			if m := j.members[rm.ID]; m != nil {
				pid = m.pid
			}
			ev.Pids = append(ev.Pids, pid)
		}
		j.feed.add(&pb.JobEvent{Of: &pb.JobEvent_View{View: ev}})
		j.srv.metrics.view(j.id, a.View)
	}
	j.tell(a.To, &pb.WorkerCommand{Of: &pb.WorkerCommand_View{View: viewTo(a.View)}})
}

func (j *job) evict(a elastic.Evict) {
	m := j.members[a.ID]
	if m == nil || m.out == nil {
		return
	}
	m.out.put(&pb.WorkerCommand{Of: &pb.WorkerCommand_Evicted{Evicted: &pb.Evicted{Reason: a.Reason, Final: a.Final}}})
	m.out.close(nil)
	j.hangUp(m)
}

// note turns a change of state into a line for people, with what was measured.
func (j *job) note(n elastic.Note) {
	c := &pb.MemberChange{
		Kind: n.Kind, Member: string(n.ID), Rank: int32(n.Rank), Step: int64(n.Step),
		Generation: uint64(n.Generation), World: int32(n.World), Reason: n.Reason,
	}
	m := j.members[n.ID]
	if m != nil {
		c.Host = m.host
	}
	switch n.Kind {
	case "loss":
		at := time.Now()
		if m != nil {
			at = m.fellAt()
		}
		c.DetectMs = time.Since(at).Seconds() * 1e3
		j.prog.lost(c, at)
		j.srv.metrics.recovery(j.id, n.Reason)
	case "join":
		j.prog.lost(c, time.Now())
	case "resume": // the first committed step tells it, with its milliseconds
		j.log.Info("group stands", "gen", n.Generation, "step", n.Step, "reason", n.Reason)
		return
	case "done": // the end has an event of its own
		return
	}
	j.log.Info("membership", "kind", n.Kind, "member", n.ID, "rank", n.Rank, "gen", n.Generation, "step", n.Step, "reason", n.Reason)
	j.change(c)
}

func (j *job) change(c *pb.MemberChange) {
	j.feed.add(&pb.JobEvent{Of: &pb.JobEvent_Change{Change: c}})
}

// newMember registers a process. One that the last view has was attached in an earlier life of the coordinator.
func (j *job) newMember(id elastic.MemberID, host string) *member {
	m := &member{id: id, host: host, rank: -1}
	if v := j.state.View(); v != nil {
		m.rank = v.RankOf(id)
		m.attached = m.rank >= 0
	}
	j.members[id] = m
	return m
}

// fellAt is the best known time of a member's fall: when the signal was sent, else when its exit was seen, else when
// it was last heard.
func (m *member) fellAt() time.Time {
	switch {
	case m.injected != 0:
		return time.Unix(0, m.injected)
	case m.exited != nil:
		return time.Unix(0, m.exited.UnixNanos)
	case !m.lastHeard.IsZero():
		return m.lastHeard
	}
	return time.Now()
}
