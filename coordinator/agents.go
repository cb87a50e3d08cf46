package coordinator

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/farandole-ml/farandole/coordinator/coordinatorpb"
)

// agents knows which hosts offer slots. An agent that loses its stream keeps its place for one liveness.
type agents struct {
	liveness time.Duration
	log      *slog.Logger
	changed  func() // slots came or went

	mu       sync.Mutex // guards what follows
	all      map[string]*agent
	attached uint64 // streams so far
}

type agent struct {
	id, host string
	slots    int
	out      *outbox[*pb.AgentCommand] // nil while detached
	gone     time.Time                 // when it detached
	stream   uint64                    // number of its attachment
	used     map[string]string         // member → job, of spawned workers that have not exited
}

func newAgents(liveness time.Duration, log *slog.Logger, changed func()) *agents {
	return &agents{liveness: liveness, log: log, changed: changed, all: map[string]*agent{}}
}

// run forgets agents that do not come back; changed then makes every job look for the workers that went with them.
func (a *agents) run(ctx context.Context) error {
	t := time.NewTicker(a.liveness / 4)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		a.mu.Lock()
		var dropped []*agent
		for id, ag := range a.all {
			if ag.out == nil && time.Since(ag.gone) > a.liveness {
				delete(a.all, id)
				dropped = append(dropped, ag)
			}
		}
		a.mu.Unlock()
		for _, ag := range dropped {
			a.log.Warn("agent lost", "agent", ag.id, "host", ag.host, "workers", len(ag.used))
		}
		if len(dropped) > 0 {
			a.changed()
		}
	}
}

// attach registers an agent's stream and gives its number, which grows. The agent's own list of running workers is the truth about its slots.
func (a *agents) attach(h *pb.AgentHello, out *outbox[*pb.AgentCommand]) uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.attached++
	ag := &agent{id: h.Id, host: h.Host, slots: int(h.Slots), out: out, used: map[string]string{}, stream: a.attached}
	for _, r := range h.Running {
		ag.used[r.Member] = r.Job
	}
	if old := a.all[h.Id]; old != nil && old.out != nil {
		old.out.close(status.Error(codes.Aborted, "the agent attached again"))
	}
	a.all[h.Id] = ag
	a.log.Info("agent attached", "agent", h.Id, "host", h.Host, "slots", h.Slots, "running", len(h.Running))
	return ag.stream
}

func (a *agents) detach(id string, out *outbox[*pb.AgentCommand]) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if ag := a.all[id]; ag != nil && ag.out == out {
		ag.out, ag.gone = nil, time.Now()
	}
}

// known says whether the agent is attached, or may still come back.
func (a *agents) known(id string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.all[id] != nil
}

func (a *agents) exited(id, member string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if ag := a.all[id]; ag != nil {
		delete(ag.used, member)
	}
}

// place finds a free slot for a worker of job: on the agent with the most free slots, so that load spreads. burnt
// counts the slots that dead workers of this job used up, per agent. local is a number that no other
// worker of the job on that agent has.
func (a *agents) place(jobID, member string, burnt map[string]int) (ag *agent, local int, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	best := 0
	for _, c := range a.all {
		free := c.slots - len(c.used) - burnt[c.id]
		if c.out == nil || free <= 0 {
			continue
		}
		if free > best || free == best && c.id < ag.id {
			ag, best = c, free
		}
	}
	if ag == nil {
		return nil, 0, false
	}
	local = len(ag.used) + burnt[ag.id]
	ag.used[member] = jobID
	return ag, local, true
}

// send gives a command to an agent; false when it is not attached now.
func (a *agents) send(id string, c *pb.AgentCommand) bool {
	a.mu.Lock()
	ag := a.all[id]
	a.mu.Unlock()
	return ag != nil && ag.out != nil && ag.out.put(c)
}

// broadcast gives a command to every attached agent.
func (a *agents) broadcast(c *pb.AgentCommand) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, ag := range a.all {
		if ag.out != nil {
			ag.out.put(c)
		}
	}
}

// addSlots makes an attached agent offer more; the first by name, so that it is always the same one.
func (a *agents) addSlots(n int) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	var ag *agent
	for _, c := range a.all {
		if c.out != nil && (ag == nil || c.id < ag.id) {
			ag = c
		}
	}
	if ag == nil {
		return false
	}
	ag.slots += n
	ag.out.put(&pb.AgentCommand{Of: &pb.AgentCommand_AddSlots{AddSlots: &pb.AddSlots{Add: int32(n)}}})
	return true
}

// Serve is an agent's stream.
func (s *server) Serve(st pb.Coordinator_ServeServer) error {
	first, err := recvWithin(st.Context(), helloWait, st.Recv)
	if err != nil {
		return err
	}
	h := first.GetHello()
	if h == nil || h.Id == "" || h.Slots < 0 || h.Slots > maxWorkers {
		return status.Error(codes.InvalidArgument, "an agent says hello first, with an id and its slots")
	}
	out := newOutbox[*pb.AgentCommand](agentQueue)
	out.put(&pb.AgentCommand{Of: &pb.AgentCommand_Welcome{Welcome: &pb.AgentWelcome{LivenessNanos: int64(s.cfg.Liveness)}}})
	stream := s.agents.attach(h, out)
	for _, j := range s.list() {
		running := map[string]int32{}
		for _, r := range h.Running {
			if r.Job == j.id {
				running[r.Member] = r.Pid
			}
		}
		j.post(func() { j.agentAttached(h.Id, h.Host, stream, running) })
	}
	s.poke()
	defer s.agents.detach(h.Id, out)
	go func() {
		for {
			m, err := st.Recv()
			if err != nil {
				out.close(err)
				return
			}
			s.agentSays(h.Id, m)
		}
	}()
	return out.drain(st.Context(), st.Send)
}

func (s *server) agentSays(id string, m *pb.AgentMessage) {
	switch v := m.Of.(type) {
	case *pb.AgentMessage_Exited:
		j, err := s.job(v.Exited.Job)
		if err != nil {
			s.agents.exited(id, v.Exited.Member)
			s.poke()
			return
		}
		// The slot is free only after the job decided whether the dead worker used it up.
		j.post(func() {
			j.exited(id, v.Exited)
			s.agents.exited(id, v.Exited.Member)
			s.group.Go(func() error { // posts to this very goroutine, too
				s.poke()
				return nil
			})
		})
	case *pb.AgentMessage_Started:
		if j, err := s.job(v.Started.Job); err == nil {
			j.post(func() { j.started(v.Started) })
		}
	case *pb.AgentMessage_Injected:
		if j, err := s.job(v.Injected.Job); err == nil {
			j.post(func() { j.injected(v.Injected) })
		}
	case *pb.AgentMessage_Logs:
		if j, err := s.job(v.Logs.Job); err == nil {
			j.post(func() { j.feed.logs(v.Logs) })
		}
	}
}
