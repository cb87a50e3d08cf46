package coordinator

import (
	"time"

	"google.golang.org/protobuf/proto"

	pb "github.com/farandole-ml/farandole/coordinator/coordinatorpb"
	"github.com/farandole-ml/farandole/elastic"
)

// Exit codes of a job, as DESIGN §11 has them.
const (
	codeDone        = 0
	codeFailed      = 1
	codeUsage       = 2
	codeStarved     = 3
	codeInterrupted = 130
	codePreempted   = 143
)

// fail ends the job with one sentence; usage says that the user's input is the cause.
func (j *job) fail(reason string, usage bool) {
	j.usage = usage
	j.step(elastic.Stop{Reason: reason})
}

func (j *job) cancel(save bool) {
	if j.over {
		return
	}
	if save && j.state.View() != nil {
		j.saving = true
		for id := range j.members {
			j.tell(id, &pb.WorkerCommand{Of: &pb.WorkerCommand_Preempt{Preempt: &pb.Preempt{}}})
		}
		return
	}
	j.cancelled = true
	j.step(elastic.Stop{Reason: "cancelled"})
}

// lastWords is how long the news of the end waits for the workers' exits, and so for their last lines: a little longer than
// the agents give a worker.
const lastWords = 4 * time.Second

// end makes the result durable, lets the workers exit and the agents clean up. The watchers learn of it by conclude.
func (j *job) end(a elastic.Ended) {
	j.over = true
	now := time.Now()
	j.prog.step = max(j.prog.step, int64(j.state.Applied()))
	e := &pb.JobEnded{
		Status: "failed", Code: int32(a.Code), Reason: a.Reason, Steps: j.prog.step, Loss: j.prog.loss,
		Ledger: ledgerTo(j.state.Ledger()), Plan: j.plan,
	}
	switch {
	case a.Code == codeDone && j.saving && j.prog.step < j.plan.GetSteps():
		e.Status, e.Code = "preempted", codePreempted
	case a.Code == codeDone:
		e.Status = "done"
	case a.Code == codeStarved:
		e.Status, e.Failure = "starved", j.failure
	case j.cancelled:
		e.Status, e.Code = "cancelled", codeInterrupted
	case j.usage:
		e.Code, e.Failure = codeUsage, j.failure
	default:
		e.Failure = j.failure
	}
	for _, m := range j.members {
		if m.finished != nil {
			e.WeightsSha256 = m.finished.WeightsSha256
		}
	}
	if !j.saved.Started.IsZero() {
		e.TrainSeconds = now.Sub(j.saved.Started).Seconds()
		e.PausedSeconds = j.saved.Paused.Seconds()
	}
	b, err := proto.Marshal(e)
	if err != nil {
		j.err = err
		return
	}
	j.saved.Ended = b
	j.save()
	j.log.Info("job ended", "status", e.Status, "code", e.Code, "reason", e.Reason, "step", e.Steps)
	for _, m := range j.members {
		j.dismiss(m)
	}
	j.srv.agents.broadcast(&pb.AgentCommand{Of: &pb.AgentCommand_Release{Release: &pb.Release{Job: j.id}}})
	j.untold, j.tellBy = e, now.Add(lastWords)
	j.conclude()
}

// conclude tells the watchers that the job has ended, when no worker has anything more to say.
func (j *job) conclude() {
	if j.untold == nil {
		return
	}
	for _, m := range j.members {
		if m.agent != "" && m.exited == nil && time.Now().Before(j.tellBy) {
			return
		}
	}
	j.feed.add(&pb.JobEvent{Of: &pb.JobEvent_Ended{Ended: j.untold}})
	j.untold = nil
	j.save()
	j.feed.close()
}

// dismiss lets a worker exit.
func (j *job) dismiss(m *member) {
	if m.out == nil {
		return
	}
	e := new(pb.JobEnded)
	if proto.Unmarshal(j.saved.Ended, e) != nil {
		e.Code = codeFailed
	}
	m.out.put(&pb.WorkerCommand{Of: &pb.WorkerCommand_Ended{Ended: &pb.Ended{Code: e.Code, Reason: e.Reason}}})
	m.out.close(nil)
	j.hangUp(m)
}

// status has the job's workers when they are asked for.
func (j *job) status(workers bool) *pb.JobStatus {
	out := &pb.JobStatus{
		Job: j.id, Name: j.spec.Name, Status: j.state.Phase(), Step: j.prog.step, Generation: j.prog.generation,
		World: int32(j.prog.world), Loss: j.prog.loss, Plan: j.plan, Ledger: ledgerTo(j.state.Ledger()),
		Devices: j.deviceSummary(),
	}
	if workers {
		out.Workers = j.workers()
	}
	if e := new(pb.JobEnded); len(j.saved.Ended) > 0 && proto.Unmarshal(j.saved.Ended, e) == nil {
		out.Status, out.Step, out.Loss, out.Ledger = e.Status, e.Steps, e.Loss, e.Ledger
	}
	return out
}
