package worker

import (
	"context"
	"errors"
	"fmt"

	"github.com/farandole-ml/farandole/collective"
	pb "github.com/farandole-ml/farandole/coordinator/coordinatorpb"
	"github.com/farandole-ml/farandole/elastic"
)

// command carries out what the coordinator says. It runs on the control goroutine and waits for nothing: what must
// wait for the training goroutine is left with the position.
func (s *Session) command(c *pb.WorkerCommand) error {
	switch of := c.Of.(type) {
	case *pb.WorkerCommand_Welcome:
		return nil // read by attach
	case *pb.WorkerCommand_Prepare:
		if !s.fit {
			return nil
		}
		s.prepare(elastic.Generation(of.Prepare.Generation), of.Prepare.Reason)
	case *pb.WorkerCommand_View:
		if !s.fit {
			return nil
		}
		return s.takeView(of.View)
	case *pb.WorkerCommand_Evicted:
		s.evicted(of.Evicted)
	case *pb.WorkerCommand_Ended:
		s.ended(of.Ended)
	case *pb.WorkerCommand_Preempt:
		s.preempt.Store(true)
	default:
		return fmt.Errorf("worker: the coordinator sent a command that this version does not know (%T)", c.Of)
	}
	return nil
}

// prepare fences all generations below next and answers where this worker stands: at once, unless a reduction or an
// update is running, which is ended or finished first.
func (s *Session) prepare(next elastic.Generation, reason string) {
	p := s.pos
	s.strike(PointPrepare, p.at().Applied, s.Rank())
	var newest elastic.Step
	if s.saver != nil {
		newest = s.saver.newest()
	}
	p.mu.Lock()
	old, news := p.gen, next >= p.fence.Generation && (p.gen == nil || next > p.gen.number())
	p.mu.Unlock()
	if !news {
		return
	}
	s.listener.Fence(next)
	p.mu.Lock()
	p.fence.Generation, p.fence.Checkpoint = next, newest
	p.due = next
	p.mu.Unlock()
	if old != nil {
		old.abort(collective.ErrGenerationChanged)
	}
	s.log.Info("prepare", "gen", uint64(next), "reason", reason)
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.busy {
		p.settled()
	}
}

// takeView makes a view's generation the current one and connects it.
func (s *Session) takeView(m *pb.View) error {
	v, err := viewOf(m)
	if err != nil {
		return err
	}
	if v.Job != s.cfg.Job || v.Shards != s.plan.Shards {
		return fmt.Errorf("worker: a view of job %q with %d shards came to a worker of job %q with %d", v.Job, v.Shards, s.cfg.Job, s.plan.Shards)
	}
	rank := v.RankOf(s.cfg.Member)
	if rank < 0 {
		return nil // a spare
	}
	p := s.pos
	p.mu.Lock()
	if v.Generation < p.fence.Generation || p.over != nil || p.gen != nil && v.Generation <= p.gen.number() {
		p.mu.Unlock()
		return nil
	}
	old := p.gen
	g := &generation{view: v, rank: rank, ready: make(chan struct{})}
	g.ctx, g.cancel = context.WithCancelCause(s.life)
	p.gen, p.fence.Generation, p.fence.View, p.broken = g, v.Generation, v.Generation, true
	p.due = 0
	p.signal()
	p.mu.Unlock()

	s.listener.Fence(v.Generation)
	if old != nil {
		old.abort(collective.ErrGenerationChanged)
	}
	s.mail.moved.Store(0)
	s.wg.Go(func() { s.keep(g) })
	return nil
}

// evicted drops the group. The state stays: the next Hello tells of it.
func (s *Session) evicted(e *pb.Evicted) {
	if e.Final {
		s.pos.end(1, &EndedError{1, "this worker was refused: " + e.Reason})
		return
	}
	s.log.Warn("evicted; joining again", "reason", e.Reason)
	s.mail.forget()
	p := s.pos
	p.mu.Lock()
	old := p.gen
	p.gen, p.due = nil, 0
	p.signal()
	p.mu.Unlock()
	if old != nil {
		old.abort(collective.ErrGenerationChanged)
	}
}

func (s *Session) ended(e *pb.Ended) {
	if e.Code == 0 {
		s.pos.end(0, nil)
		return
	}
	s.pos.end(int(e.Code), &EndedError{int(e.Code), e.Reason})
}

// viewOf checks a view from the network.
func viewOf(m *pb.View) (*elastic.View, error) {
	n := len(m.GetRoster())
	if n == 0 || len(m.Ranges) != n || len(m.Sync) != n || m.Shards < 1 || m.Resume < 0 {
		return nil, errors.New("worker: the coordinator sent a view whose parts do not fit together")
	}
	v := &elastic.View{
		Job: m.Job, Generation: elastic.Generation(m.Generation), Shards: int(m.Shards), Resume: elastic.Step(m.Resume),
		ResumeTerm: elastic.Generation(m.ResumeTerm),
	}
	at := 0
	for r, w := range m.Roster {
		v.Roster = append(v.Roster, elastic.Member{
			ID: elastic.MemberID(w.Id), Addr: w.Addr, Host: w.Host, Class: w.Class, Rank: int(w.LocalRank),
		})
		g := elastic.Range{First: int(m.Ranges[r].First), End: int(m.Ranges[r].End)}
		if g.First != at || g.End < g.First {
			return nil, fmt.Errorf("worker: the coordinator sent a view whose ranges do not cover the shards: rank %d has %v", r, g)
		}
		at = g.End
		v.Ranges = append(v.Ranges, g)
		p := elastic.SyncPlan{Kind: elastic.SyncKind(m.Sync[r].Kind)}
		for _, f := range m.Sync[r].From {
			if int(f) < 0 || int(f) >= n || int(f) == r {
				return nil, fmt.Errorf("worker: the coordinator sent a view in which rank %d syncs from rank %d", r, f)
			}
			p.From = append(p.From, int(f))
		}
		v.Sync = append(v.Sync, p)
	}
	if at != v.Shards {
		return nil, fmt.Errorf("worker: the coordinator sent a view whose ranges end at shard %d of %d", at, v.Shards)
	}
	return v, nil
}
