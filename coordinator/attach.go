package coordinator

import (
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	pb "github.com/farandole-ml/farandole/coordinator/coordinatorpb"
	"github.com/farandole-ml/farandole/elastic"
)

// maxShards bounds S: a reduction tree beyond it has no use and would let a bad Hello allocate.
const maxShards = 1 << 20

// Attach is a worker's stream.
func (s *server) Attach(st pb.Coordinator_AttachServer) error {
	first, err := recvWithin(st.Context(), helloWait, st.Recv)
	if err != nil {
		return err
	}
	h := first.GetHello()
	if h != nil && h.Plan == nil {
		return s.failedSetup(st, h)
	}
	if h == nil || h.GetMember().GetId() == "" || h.GetMember().GetAddr() == "" {
		return status.Error(codes.InvalidArgument, "a worker says hello first, with its id, address and plan")
	}
	if n := h.Plan.Shards; n < 1 || n > maxShards {
		return status.Errorf(codes.InvalidArgument, "shards must lie between 1 and %d, not %d", maxShards, n)
	}
	j, err := s.job(h.Job)
	if err != nil {
		return err
	}
	out := newOutbox[*pb.WorkerCommand](workerQueue)
	id := elastic.MemberID(h.Member.Id)
	if err := j.call(st.Context(), func() { j.attach(h, out) }); err != nil {
		return err
	}
	go func() {
		for {
			m, err := st.Recv()
			if err != nil {
				out.close(err)
				return
			}
			j.post(func() { j.hear(id, out, m) })
		}
	}()
	err = out.drain(st.Context(), st.Send)
	j.post(func() { j.detached(id, out) })
	return err
}

// failedSetup hears a worker out whose program failed before it had a plan.
func (s *server) failedSetup(st pb.Coordinator_AttachServer, h *pb.Hello) error {
	m, err := recvWithin(st.Context(), helloWait, st.Recv)
	if err != nil {
		return err
	}
	f := m.GetFailed()
	if f == nil {
		return status.Error(codes.InvalidArgument, "a worker without a plan can only say that it failed")
	}
	j, err := s.job(h.Job)
	if err != nil {
		return err
	}
	err = j.call(st.Context(), func() {
		id := elastic.MemberID(h.GetMember().GetId())
		j.blame(&member{id: id, host: h.GetMember().GetHost(), rank: -1}, nil)
		j.fail(f.Reason, f.Usage)
	})
	return err
}

func (j *job) attach(h *pb.Hello, out *outbox[*pb.WorkerCommand]) {
	out.put(&pb.WorkerCommand{Of: &pb.WorkerCommand_Welcome{Welcome: &pb.Welcome{LivenessNanos: int64(j.limits.Lease), ReportNanos: j.spec.ReportNanos}}})
	id := elastic.MemberID(h.Member.Id)
	m := j.members[id]
	if m == nil {
		m = j.newMember(id, h.Member.Host)
	}
	if m.out != nil {
		m.out.close(status.Error(codes.Aborted, "the worker attached again"))
	}
	m.out, m.pid, m.host, m.attached = out, h.Pid, h.Member.Host, true
	m.lastHeard, m.injected = time.Now(), 0
	if j.over {
		j.dismiss(m)
		return
	}
	if why := j.agree(h.Plan); why != "" {
		j.log.Warn("worker refused", "member", id, "reason", why)
		j.evict(elastic.Evict{ID: id, Reason: why, Final: true})
		return
	}
	if j.over { // agree found the plan itself unusable
		return
	}
	j.step(elastic.Joined{Member: memberFrom(h.Member), Fence: fenceFrom(h.Fence), Shards: int(h.Plan.Shards)})
	if j.saving {
		j.tell(id, &pb.WorkerCommand{Of: &pb.WorkerCommand_Preempt{Preempt: &pb.Preempt{}}})
	}
}

// agree holds a worker's plan against the job's; the first worker's plan is the job's. It says why they differ.
func (j *job) agree(p *pb.Plan) string {
	if j.plan != nil {
		if proto.Equal(j.plan, p) {
			return ""
		}
		return fmt.Sprintf("this worker's program differs from the job's (%s; the job: %s): start all workers with the same program, arguments and data",
			planText(p), planText(j.plan))
	}
	b, err := proto.Marshal(p)
	if err != nil {
		return err.Error()
	}
	j.plan, j.saved.Plan, j.dirty = p, b, true
	j.feed.add(&pb.JobEvent{Of: &pb.JobEvent_Plan{Plan: p}})
	if need := max(j.spec.Start, j.spec.Min); p.Shards < need {
		j.fail(fmt.Sprintf("the program has %d logical shards and cannot feed %d workers: raise its --shards to %d or more, or ask for fewer workers",
			p.Shards, need, need), true)
	}
	return ""
}

func planText(p *pb.Plan) string {
	return fmt.Sprintf("%s, %d steps, %d shards, seed %d", p.Program, p.Steps, p.Shards, p.Seed)
}

func (j *job) detached(id elastic.MemberID, out *outbox[*pb.WorkerCommand]) {
	m := j.members[id]
	if m == nil || m.out != out {
		return
	}
	j.hangUp(m)
	j.step(elastic.Detached{ID: id})
}

// hear takes one message of a worker's stream; messages of a superseded stream are dropped.
func (j *job) hear(id elastic.MemberID, out *outbox[*pb.WorkerCommand], msg *pb.WorkerMessage) {
	m := j.members[id]
	if m == nil || m.out != out {
		return
	}
	m.lastHeard = time.Now()
	switch v := msg.Of.(type) {
	case *pb.WorkerMessage_Heartbeat:
		j.deviceHeard(m, v.Heartbeat.GetDevice())
		j.heartbeat(id, v.Heartbeat)
	case *pb.WorkerMessage_Fenced:
		j.step(elastic.Fenced{ID: id, Generation: elastic.Generation(v.Fenced.Generation), Fence: fenceFrom(v.Fenced.Fence)})
	case *pb.WorkerMessage_Formed:
		j.step(elastic.Formed{ID: id, Generation: elastic.Generation(v.Formed.Generation)})
	case *pb.WorkerMessage_Suspect:
		j.step(elastic.Suspected{By: id, Peer: elastic.MemberID(v.Suspect.Peer),
			Generation: elastic.Generation(v.Suspect.Generation), Reason: v.Suspect.Reason})
	case *pb.WorkerMessage_Finished:
		j.finished(m, v.Finished)
	case *pb.WorkerMessage_Failed:
		j.blame(m, nil)
		j.fail(v.Failed.Reason, v.Failed.Usage)
	case *pb.WorkerMessage_Saved:
		j.feed.add(&pb.JobEvent{Of: &pb.JobEvent_Saved{Saved: v.Saved}})
	}
}

func (j *job) heartbeat(id elastic.MemberID, h *pb.Heartbeat) {
	resumed, advanced := j.prog.heard(h)
	if j.prog.pausedFor != 0 {
		j.saved.Paused += j.prog.pausedFor
		j.prog.pausedFor, j.dirty = 0, true
	}
	for _, c := range resumed {
		j.srv.metrics.resume.WithLabelValues(j.id).Observe(c.ResumeMs / 1e3)
		j.change(c)
	}
	if advanced {
		j.publishProgress()
	}
	j.step(elastic.Heard{ID: id, Generation: elastic.Generation(h.Generation), Applied: elastic.Step(h.Applied), Moved: h.Moved})
}

func (j *job) publishProgress() {
	p := &j.prog
	per := j.plan.GetTokensPerStep()
	if per == 0 {
		per = j.plan.GetSamplesPerStep()
	}
	j.srv.metrics.step.WithLabelValues(j.id).Set(float64(p.step))
	j.srv.metrics.loss.WithLabelValues(j.id).Set(p.loss)
	j.feed.setProgress(&pb.Progress{
		Step: p.step, Loss: p.loss, Generation: p.generation, World: int32(p.world),
		TokensPerSecond: p.rate * float64(per), UnixNanos: p.lastCommit.UnixNano(),
		Devices: j.deviceSummary(),
	})
}

// finished holds the members' results against each other before it believes them.
func (j *job) finished(m *member, f *pb.Finished) {
	for _, o := range j.members {
		if o.finished != nil && o.finished.Step == f.Step && o.finished.WeightsSha256 != f.WeightsSha256 {
			j.fail(fmt.Sprintf("the weights differ between ranks at step %d: rank %d has %.16s…, rank %d has %.16s…; do not trust this run's result",
				f.Step, m.rank, f.WeightsSha256, o.rank, o.finished.WeightsSha256), false)
			return
		}
	}
	m.finished = f
	if f.Step >= j.prog.step {
		j.prog.step, j.prog.loss = f.Step, f.Loss
		j.publishProgress()
	}
	j.step(elastic.Finished{ID: m.id, Generation: elastic.Generation(f.Generation), Step: elastic.Step(f.Step)})
}
