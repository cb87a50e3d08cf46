package elastic

import (
	"cmp"
	"slices"
	"time"
)

// prepare starts the next generation: it is durable first, then everybody who may be in its view is fenced.
func (s *State) prepare(t time.Duration, reason string, c cause) {
	s.gen++
	s.phase, s.cause, s.reason = PhasePreparing, c, reason
	s.persist()
	for _, m := range s.order {
		m.asked, m.answered = false, false
	}
	chosen := s.roster()
	s.target = max(len(chosen), min(len(s.order), s.maxWorld()))
	chosen = append(chosen, s.joiners(s.target-len(chosen))...)
	for _, m := range chosen {
		s.ask(t, m)
	}
	s.tryDecide(t)
}

func (s *State) ask(t time.Duration, m *member) {
	m.asked, m.answered, m.askedAt = true, false, t
	s.emit(Prepare{To: m.ID, Generation: s.gen, Reason: s.reason})
}

// joiners chooses up to n members that are outside the view and not asked yet: who came first goes first.
func (s *State) joiners(n int) []*member {
	var out []*member
	for _, m := range s.order {
		if len(out) < n && !m.inView && !m.asked && !m.leaving {
			out = append(out, m)
		}
	}
	return out
}

// enlist makes up for members lost during a Prepare from the spares, as long as it runs anyway.
func (s *State) enlist(t time.Duration) {
	asked := 0
	for _, m := range s.order {
		if m.asked {
			asked++
		}
	}
	for _, m := range s.joiners(s.target - asked) {
		s.ask(t, m)
	}
}

func (s *State) fenced(t time.Duration, e Fenced) {
	m := s.touch(t, e.ID)
	if m == nil || s.phase != PhasePreparing || !m.asked || e.Generation != s.gen {
		return
	}
	m.answered, m.fence = true, e.Fence
	s.tryDecide(t)
}

// tryDecide makes the view once everybody who was asked and is still there has answered.
func (s *State) tryDecide(t time.Duration) {
	var in []*member
	for _, m := range s.order {
		if m.asked && !m.answered {
			return
		}
		if m.asked {
			in = append(in, m)
		}
	}
	slices.SortStableFunc(in, rosterOrder)
	in, out := s.splitLeaving(in)
	s.settle(t, in)
	for _, m := range out {
		s.remove(m, s.leaveReason(m))
	}
}

// settle makes the view of in, who are all fenced, or waits when there cannot be one.
func (s *State) settle(t time.Duration, in []*member) {
	if s.stateless = false; len(in) < s.policy.Min {
		s.wait(t, lacking(len(in), s.policy.Min))
		return
	}
	fences := make([]Fence, len(in))
	for i, m := range in {
		fences[i] = m.fence
		fences[i].HoldsState = m.fence.HoldsState && s.onLineage(m.fence)
	}
	r, sync, ok := decide(fences)
	if !ok {
		s.stateless = true
		s.wait(t, "nobody holds the training state, and there is no checkpoint")
		return
	}
	s.announce(t, in, r, sync)
}

// rosterOrder keeps the survivors as they were and puts joiners behind them, neighbours of one host together.
func rosterOrder(a, b *member) int {
	switch {
	case a.inView && b.inView:
		return a.rank - b.rank
	case a.inView:
		return -1
	case b.inView:
		return 1
	}
	return cmp.Or(cmp.Compare(a.Host, b.Host), cmp.Compare(a.Rank, b.Rank), cmp.Compare(a.ID, b.ID))
}

// splitLeaving parts the members that leave from those of the next view. One that leaves stays for a view more when nobody
// else holds the newest state, to hand it over.
func (s *State) splitLeaving(all []*member) (in, out []*member) {
	newest, kept := Step(-1), Step(-1)
	stay := 0
	for _, m := range all {
		at := Step(-1)
		if m.fence.HoldsState && s.onLineage(m.fence) {
			at = m.fence.Applied
		}
		newest = max(newest, at)
		if !m.leaving {
			kept = max(kept, at)
			stay++
		}
	}
	for _, m := range all {
		needed := stay > 0 && kept < newest && m.fence.Applied == newest
		if m.leaving && !needed {
			out = append(out, m)
		} else {
			in = append(in, m)
		}
	}
	return in, out
}

// announce makes the view of the current generation.
func (s *State) announce(t time.Duration, in []*member, r Step, sync []SyncPlan) {
	v := &View{
		Job: s.policy.Job, Generation: s.gen, Shards: s.shards,
		Ranges: Assign(s.shards, len(in)), Resume: r, Sync: sync,
	}
	for _, m := range in {
		v.Roster = append(v.Roster, m.Member)
	}
	s.group = s.nextGroup(t, v)
	s.resumeLedger(r, v.Generation, len(in))
	v.ResumeTerm = committedBy(s.ledger, r)
	s.view, s.phase = v, PhaseRunning
	s.starving, s.fresh = false, 0
	s.persist()
	for _, m := range s.order {
		m.asked, m.inView, m.rank, m.formed, m.finished, m.accused = false, false, -1, false, false, 0
	}
	for rank, m := range in {
		m.inView, m.rank = true, rank
		s.emit(Announce{To: m.ID, View: v})
	}
	s.note("view", nil, s.reason+resumeNote(sync, r))
}

// nextGroup carries over what outlives a view, and counts the views that got nowhere.
func (s *State) nextGroup(t time.Duration, v *View) group {
	g := group{best: v.Resume, progressAt: t, stalls: s.group.stalls, durations: s.group.durations}
	if s.cause == causeSuspicion && v.Resume < s.view.Resume+flapSteps && slices.Equal(ids(v.Roster), ids(s.view.Roster)) {
		g.flaps = s.group.flaps + 1
	}
	return g
}

func ids(roster []Member) []MemberID {
	out := make([]MemberID, len(roster))
	for i := range roster {
		out[i] = roster[i].ID
	}
	return out
}
