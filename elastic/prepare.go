package elastic

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// prepare starts the next generation: it is durable first, then everybody who may be in its view is fenced.
func (s *State) prepare(t time.Duration, reason string, c cause) {
	s.gen = max(s.gen, s.seen) + 1
	s.phase, s.cause, s.reason, s.calledAt = PhasePreparing, c, reason, t
	s.persist()
	s.silent = 0
	for _, m := range s.order {
		m.asked, m.answered = false, false
	}
	chosen := s.roster()
	s.target = max(len(chosen), min(len(s.order), s.room(s.order)))
	chosen = append(chosen, s.joiners(t, s.target-len(chosen))...)
	for _, m := range chosen {
		s.ask(t, m)
	}
	s.tryDecide(t)
}

func (s *State) ask(t time.Duration, m *member) {
	m.asked, m.answered, m.askedAt = true, false, t
	s.silent++
	s.emit(Prepare{To: m.ID, Generation: s.gen, Reason: s.reason})
}

// joiners chooses up to n members that are outside the view and not asked yet: who came first goes first, but before all one that
// leaves (it is there still because it alone holds a state), and last who lost its state in a broken transfer. Nobody
// who may not enter by time t.
func (s *State) joiners(t time.Duration, n int) []*member {
	var leaving, out, empty []*member
	for _, m := range s.order {
		switch {
		case m.inView || m.asked || t < m.eligible:
		case m.leaving:
			leaving = append(leaving, m)
		case m.fence.HoldsState || m.fence.Checkpoint > 0:
			out = append(out, m)
		default:
			empty = append(empty, m)
		}
	}
	out = slices.Concat(leaving, out, empty)
	return out[:max(0, min(n, len(out)))]
}

// enlist makes up for members lost during a Prepare from the spares that were there when it began. Who came later could
// put off the view for ever.
func (s *State) enlist(t time.Duration) {
	asked := 0
	for _, m := range s.order {
		if m.asked {
			asked++
		}
	}
	for _, m := range s.joiners(s.calledAt, s.target-asked) {
		s.ask(t, m)
	}
}

func (s *State) fenced(t time.Duration, e Fenced) {
	m := s.touch(t, e.ID)
	if m == nil || s.phase != PhasePreparing || !m.asked || e.Generation != s.gen {
		return
	}
	if !m.answered {
		s.silent--
	}
	m.answered, m.fence = true, e.Fence.sane()
	s.tryDecide(t)
}

// tryDecide makes the view once everybody who was asked and is still there has answered.
func (s *State) tryDecide(t time.Duration) {
	if s.silent > 0 {
		return
	}
	var in []*member
	for _, m := range s.order {
		if m.asked {
			in = append(in, m)
		}
	}
	slices.SortStableFunc(in, rosterOrder)
	in, out := s.splitLeaving(in)
	for _, m := range out {
		s.remove(m, s.leaveReason(m))
	}
	s.settle(t, in[:min(len(in), s.room(in))]) // one that was to leave may be gone; the last joiner waits again
}

// settle makes the view of in, who are all fenced, or waits when there cannot be one.
func (s *State) settle(t time.Duration, in []*member) {
	if s.stateless = false; len(in) < s.policy.Min {
		s.wait(t, lacking(len(in), s.policy.Min))
		return
	}
	fences, adopted := s.usable(in)
	r, sync, ok := decide(fences)
	if !ok {
		s.stateless = true
		s.wait(t, "nobody holds the training state, and there is no usable checkpoint")
		return
	}
	if adopted > 0 {
		s.adopt(adopted, r)
		s.reason += fmt.Sprintf("; it starts from a state that generation %d left", adopted)
	}
	s.announce(t, in, r, sync)
}

// usable gives the members' fences, with HoldsState only where the state may be resumed from: on the lineage. When all that the
// lineage left is the initial state, and no checkpoint, the best of any other is adopted: the generation that committed
// it is returned.
func (s *State) usable(in []*member) (fences []Fence, adopted Generation) {
	fences = make([]Fence, len(in))
	best := -1
	for i, m := range in {
		f := m.fence
		if f.HoldsState && !s.onLineage(f) {
			if best < 0 || f.Applied > in[best].fence.Applied || f.Applied == in[best].fence.Applied && f.Term > in[best].fence.Term {
				best = i
			}
			f.HoldsState = false
		}
		fences[i] = f
	}
	if best < 0 {
		return fences, 0
	}
	if r, _, ok := decide(fences); ok && r > 0 {
		return fences, 0
	}
	for i, m := range in {
		fences[i].HoldsState = m.fence.HoldsState && m.fence.Applied == in[best].fence.Applied && m.fence.Term == in[best].fence.Term
	}
	return fences, in[best].fence.Term
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
	case a.leaving != b.leaving: // first, for it must not fall off the end
		if a.leaving {
			return -1
		}
		return 1
	}
	return cmp.Or(cmp.Compare(a.Host, b.Host), cmp.Compare(a.Rank, b.Rank), cmp.Compare(a.ID, b.ID))
}

// splitLeaving parts the members that leave from those that the next view may have. One that leaves stays as long as
// nobody else holds the newest state, to hand it over; its host may end it before.
func (s *State) splitLeaving(all []*member) (in, out []*member) {
	newest, kept := Step(-1), Step(-1)
	for _, m := range all {
		at := Step(-1)
		if m.fence.HoldsState && s.onLineage(m.fence) {
			at = m.fence.Applied
		}
		newest = max(newest, at)
		if !m.leaving {
			kept = max(kept, at)
		}
	}
	for _, m := range all {
		needed := kept < newest && m.fence.HoldsState && m.fence.Applied == newest
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
	s.starving = false
	s.persist()
	for _, m := range s.order {
		m.asked, m.tried, m.inView, m.rank, m.formed, m.finished, m.accused = false, false, false, -1, false, false, 0
	}
	for rank, m := range in {
		m.inView, m.rank = true, rank
		s.emit(Announce{To: m.ID, View: v})
	}
	for _, m := range slices.Clone(s.order) {
		if m.leaving && !m.inView {
			s.remove(m, s.leaveReason(m))
		}
	}
	s.note("view", nil, s.reason+resumeNote(sync, r))
}

// nextGroup carries over what outlives a view, and counts the views that got nowhere.
func (s *State) nextGroup(t time.Duration, v *View) group {
	g := group{best: v.Resume, progressAt: t, unformed: v.World(), unfinished: v.World(), stalls: s.group.stalls, durations: s.group.durations}
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
