package coordinator

import (
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/farandole-ml/farandole/coordinator/coordinatorpb"
	"github.com/farandole-ml/farandole/elastic"
)

// limit is how many workers the job may have at once. Before its first worker said how many shards there are,
// it is what the user asked to start with.
func (j *job) limit() int {
	switch {
	case j.spec.Max > 0:
		return int(j.spec.Max)
	case j.plan != nil:
		return int(j.plan.Shards)
	}
	return max(int(j.spec.Start), int(j.spec.Min), 1)
}

// reconcile spawns workers where there are slots, and gives up those whose host is gone.
func (j *job) reconcile() {
	if j.over {
		return
	}
	if wait := time.Until(j.quietTill); wait > 0 {
		time.AfterFunc(wait, func() { j.post(j.reconcile) })
		return
	}
	alive := 0
	for _, m := range j.members {
		if m.agent != "" && !j.srv.agents.known(m.agent) {
			j.drop(m, fmt.Sprintf("host %s is gone: its agent does not answer", m.host))
			continue
		}
		alive++
	}
	for ; alive < j.limit(); alive++ {
		if !j.spawn() {
			break
		}
	}
	if alive == 0 && j.failure != nil && j.failure.Signal == "" && j.failure.Code != 0 {
		j.fail(fmt.Sprintf("all workers ended by themselves; the first was %s with exit code %d", j.failure.Member, j.failure.Code), false)
	}
}

// slotPatience is how long a new job waits for slots before it says so.
const slotPatience = 3 * time.Second

// sayIfShort tells people what a job waits for that could not start its first workers.
func (j *job) sayIfShort() {
	need := max(int(j.spec.Start), int(j.spec.Min), 1)
	if j.over || j.state.View() != nil || len(j.members) >= need {
		return
	}
	j.change(&pb.MemberChange{Kind: "wait", Rank: -1, Reason: fmt.Sprintf(
		"%d of %d have a slot: start an agent, `farandole agent`, or end another job", len(j.members), need)})
}

func (j *job) spawn() bool {
	id := token(4)
	ag, local, ok := j.srv.agents.place(j.id, id, j.saved.Burnt)
	if !ok {
		return false
	}
	m := j.newMember(elastic.MemberID(id), ag.host)
	m.agent, m.stream = ag.id, ag.stream
	sent := j.srv.agents.send(ag.id, &pb.AgentCommand{Of: &pb.AgentCommand_Spawn{Spawn: &pb.Spawn{
		Job: j.id, Member: id, LocalRank: int32(local), Spec: j.spec}}})
	if !sent {
		delete(j.members, elastic.MemberID(id))
		j.srv.agents.exited(ag.id, id)
	}
	return sent
}

// agentAttached holds what an agent says it runs of this job against what the job believes. A coordinator that was
// restarted learns of its workers here, or from their Hello, whichever comes first. What was placed on this very stream came after the list.
func (j *job) agentAttached(agent, host string, stream uint64, running map[string]int32) {
	if j.over {
		return
	}
	for id, pid := range running {
		m := j.members[elastic.MemberID(id)]
		if m == nil {
			m = j.newMember(elastic.MemberID(id), host)
		}
		m.agent, m.stream, m.pid = agent, stream, pid
	}
	for id, m := range j.members {
		if _, ok := running[string(id)]; m.agent == agent && m.stream < stream && !ok {
			j.drop(m, "its process is gone")
		}
	}
}

func (j *job) started(v *pb.Started) {
	if m := j.members[elastic.MemberID(v.Member)]; m != nil {
		m.pid = v.Pid
	}
}

func (j *job) injected(v *pb.Injected) {
	if m := j.members[elastic.MemberID(v.Member)]; m != nil && v.Signal != "CONT" {
		m.injected = v.UnixNanos
	}
}

// exited is an agent's word that a worker's process ended.
func (j *job) exited(agent string, v *pb.Exited) {
	id := elastic.MemberID(v.Member)
	m := j.members[id]
	if m == nil {
		return
	}
	m.exited = v
	if j.over {
		j.conclude()
		return
	}
	if m.agent == "" { // adopted after a coordinator restart
		m.agent = agent
	}
	if !m.attached && v.Signal == "" {
		j.blame(m, v)
		j.neverJoined(v)
		return
	}
	if m.rank >= 0 || m.attached {
		j.blame(m, v)
	}
	if j.saved.Restarts < int(j.spec.MaxRestarts) {
		j.saved.Restarts++
	} else {
		j.saved.Burnt[agent]++
	}
	j.dirty = true
	j.drop(m, exitText(v))
}

// neverJoined ends the job for a program that cannot be started, or that ends before it joins: it would do so again.
func (j *job) neverJoined(v *pb.Exited) {
	program := j.spec.Command[0]
	switch {
	case v.Error != "":
		j.fail(fmt.Sprintf("cannot start %s: %s", program, v.Error), true)
	case v.Code == 0:
		j.fail(fmt.Sprintf("%s ended at once without joining the job: a training program calls worker.Main or worker.Join", program), false)
	default:
		j.fail(fmt.Sprintf("%s ended with exit code %d before it joined the job", program, v.Code), v.Code == 2)
	}
}

func exitText(v *pb.Exited) string {
	if v.Signal != "" {
		return "ended by signal: " + v.Signal
	}
	return fmt.Sprintf("exited with code %d", v.Code)
}

// drop forgets a member whose process is gone.
func (j *job) drop(m *member, reason string) {
	if m.out != nil {
		m.out.close(status.Error(codes.Aborted, reason))
		j.hangUp(m)
	}
	if m.attached {
		j.step(elastic.Lost{ID: m.id, Reason: reason})
	}
	delete(j.members, m.id)
}

// blame keeps the first cause for the failure block.
func (j *job) blame(m *member, v *pb.Exited) {
	if j.failure != nil {
		return
	}
	j.failure = &pb.Failure{Rank: int32(m.rank), Member: string(m.id), Host: m.host}
	if v != nil {
		j.failure.Signal, j.failure.Code, j.failure.Tail = v.Signal, v.Code, v.Tail
	}
}

func (j *job) inject(r *pb.InjectRequest) (string, error) {
	v := j.state.View()
	if v == nil || j.over {
		return "", status.Error(codes.FailedPrecondition, "the job has no ranks now")
	}
	if r.Rank < 0 || int(r.Rank) >= v.World() {
		return "", status.Errorf(codes.OutOfRange, "there is no rank %d: the world size is %d", r.Rank, v.World())
	}
	id := v.Roster[r.Rank].ID
	m := j.members[id]
	if m == nil || m.agent == "" {
		return "", status.Errorf(codes.FailedPrecondition, "rank %d was not started by an agent, or is gone", r.Rank)
	}
	sent := j.srv.agents.send(m.agent, &pb.AgentCommand{Of: &pb.AgentCommand_Signal{Signal: &pb.Signal{
		Job: j.id, Member: string(id), Signal: r.Signal, ContAfterNanos: r.ContAfterNanos}}})
	if !sent {
		return "", status.Errorf(codes.Unavailable, "the agent of rank %d is not attached", r.Rank)
	}
	return string(id), nil
}
