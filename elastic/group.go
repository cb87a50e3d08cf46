package elastic

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// group is what the coordinator knows of the current view's group.
type group struct {
	resumed bool // every member formed, or a step was committed, which takes every member
	best    Step // newest step that a member reported
	// Members of the view that have not formed or finished; not kept up for those that are lost, since a loss ends the view.
	unformed, unfinished int

	broken bool // a member said so
	since  time.Duration
	reason string

	// flaps counts the views in a row that had the same roster, were called for by suspicion alone and got nowhere.
	flaps int

	progressAt time.Duration
	moved      int64
	stalls     int // views in a row that were tried for want of progress
	durations  []time.Duration
}

const (
	flapSteps   = 8  // a view that commits as many steps got somewhere
	maxBackoff  = 16 // in Settles
	stallMedian = 20 // a step may take this many times the median
	maxStalls   = 4  // doublings of the limit
	keptSteps   = 15 // whose durations make the median
)

// backoff is how long a broken group is left before the next view: nothing at first, then doubling, so that a
// link that flaps gives a bounded number of views.
func (s *State) backoff() time.Duration {
	if s.group.flaps == 0 {
		return 0
	}
	return min(s.policy.Settle<<min(s.group.flaps-1, 10), maxBackoff*s.policy.Settle)
}

// stallLimit is how long a group may go without any progress. It doubles each time it was in vain, because a
// transfer or a step that really takes long must get through in the end.
func (s *State) stallLimit() time.Duration {
	limit := s.limits.Stall
	if d := s.group.durations; len(d) > 0 {
		sorted := slices.Sorted(slices.Values(d))
		limit = max(limit, stallMedian*sorted[len(sorted)/2])
	}
	return limit << min(s.group.stalls, maxStalls)
}

// progress takes note of a committed step of the current view. A member that is to get the state says nothing by its step until
// it formed: it may be one of a lineage that was left.
func (s *State) progress(t time.Duration, m *member, applied Step) {
	g := &s.group
	kind := s.view.Sync[m.rank].Kind
	if applied <= g.best || applied > maxStep || !m.formed && (kind == SyncState || kind == SyncCheckpoint) {
		return
	}
	if g.resumed {
		g.durations = append(g.durations, (t-g.progressAt)/time.Duration(applied-g.best))
		if len(g.durations) > keptSteps {
			g.durations = slices.Delete(g.durations, 0, 1)
		}
	}
	g.best, g.progressAt, g.stalls = applied, t, 0
	s.resume()
}

// resume notes, once, that the view's group trains.
func (s *State) resume() {
	if !s.group.resumed {
		s.group.resumed = true
		if s.phase == PhaseRecovering {
			return
		}
		s.emit(Note{Kind: "resume", Rank: -1, Generation: s.view.Generation, Step: s.view.Resume, World: s.view.World()})
	}
}

func (s *State) heard(t time.Duration, e Heard) {
	m := s.touch(t, e.ID)
	if m == nil || !s.current(m, e.Generation) {
		return
	}
	m.fence.Applied = max(m.fence.Applied, min(e.Applied, maxStep))
	if e.Moved > s.group.moved {
		s.group.moved, s.group.progressAt = e.Moved, t
	}
	s.progress(t, m, e.Applied)
}

// current says whether a member's report of generation g is about the view's group.
func (s *State) current(m *member, g Generation) bool {
	return s.view != nil && m.inView && g == s.view.Generation && (s.phase == PhaseRunning || s.phase == PhaseRecovering)
}

func (s *State) formed(t time.Duration, e Formed) {
	m := s.touch(t, e.ID)
	if m == nil || !s.current(m, e.Generation) || m.formed {
		return
	}
	m.formed = true
	delete(s.strikes, m.ID)
	s.group.progressAt = t
	if s.group.unformed--; s.group.unformed == 0 {
		s.resume()
		s.advance(t)
	}
}

// rankText names a member of the view as people know it.
func (s *State) rankText(id MemberID) string {
	if r := s.view.RankOf(id); r >= 0 {
		return fmt.Sprintf("rank %d", r)
	}
	return "a peer"
}

func (s *State) suspected(t time.Duration, e Suspected) {
	m := s.touch(t, e.By)
	if m == nil || s.view == nil || !m.inView || e.Generation != s.view.Generation {
		return
	}
	peer := s.members[e.Peer]
	if peer != nil && peer != m {
		peer.accused = e.Generation
	}
	if g := &s.group; !g.broken && s.current(m, e.Generation) {
		g.broken, g.since = true, t
		g.reason = fmt.Sprintf("rank %d lost %s: %s", m.rank, s.rankText(e.Peer), cmp.Or(e.Reason, "no reason given"))
		s.note("suspect", peer, g.reason)
	}
	if peer != nil && peer != m {
		s.doubted(t, peer)
	}
	s.advance(t)
}

func (s *State) finished(t time.Duration, e Finished) {
	m := s.touch(t, e.ID)
	if m == nil || !s.current(m, e.Generation) || e.Step < s.view.Resume || e.Step > maxStep {
		return
	}
	if !m.finished {
		m.finished = true
		s.group.unfinished--
	}
	s.progress(t, m, e.Step)
	if s.phase == PhaseRunning && s.group.unfinished == 0 {
		s.tryFinish()
	}
}

// tryFinish ends the job when all the members of the view that are left have finished.
func (s *State) tryFinish() bool {
	in := s.roster()
	if len(in) == 0 || slices.ContainsFunc(in, func(m *member) bool { return !m.finished }) {
		return false
	}
	s.end(0, fmt.Sprintf("all steps up to %d are done", s.group.best))
	return true
}

// cause is why a view is prepared.
type cause int

const (
	causeJoin cause = iota
	causeLoss
	causeSuspicion
	causeStall
)

// needsView says why the running group should be replaced; empty when it should not.
func (s *State) needsView(t time.Duration) (string, cause) {
	g := &s.group
	if g.broken && t-g.since >= s.backoff() {
		return "the group broke: " + g.reason, causeSuspicion
	}
	if t-g.progressAt > s.stallLimit() && !g.broken {
		g.stalls++
		return fmt.Sprintf("no progress for %s", seconds((t - g.progressAt).Round(time.Second))), causeStall
	}
	if !g.resumed {
		return "", 0 // joins wait for the transfers of the last ones
	}
	if first, last, some := s.changes(t); some && (t-last >= s.policy.Settle || t-first >= maxSettles*s.policy.Settle) {
		return "workers came or go", causeJoin
	}
	return "", 0
}

// changes says whether members wait to enter or to leave the view, and since when: the first and the last of them.
// A member can leave when there is another to take its state over.
func (s *State) changes(t time.Duration) (first, last time.Duration, some bool) {
	room, stays := s.room(s.order)-s.view.World(), false
	for _, m := range s.order {
		stays = stays || !m.leaving && (m.inView || room > 0 && t >= m.eligible)
	}
	first = t
	for _, m := range s.order {
		at := m.eligible
		switch {
		case m.inView && m.leaving && stays:
			at = m.leftAt
		case m.inView || room <= 0 || t < m.eligible:
			continue
		}
		first, last, some = min(first, at), max(last, at), true
	}
	return first, last, some
}

// maxSettles bounds how long a stream of joins can put off the view for the first of them, in Settles.
const maxSettles = 3
