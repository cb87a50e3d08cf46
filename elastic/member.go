package elastic

import (
	"fmt"
	"slices"
	"time"
)

// member is one attached worker, in the view or waiting to be.
type member struct {
	Member
	fence    Fence // as it last reported it
	heard    time.Duration
	joinedAt time.Duration
	eligible time.Duration // from then on it may enter a view: later than joinedAt for one that did not answer before
	detached bool
	accused  Generation // a peer blamed it for the end of this generation's group
	leaving  bool
	leftAt   time.Duration
	why      string // of leaving

	// In the current view.
	inView   bool
	rank     int
	formed   bool
	finished bool

	// While preparing.
	asked    bool
	askedAt  time.Duration
	answered bool
	tried    bool // it was asked, and there could be no view; without somebody new there is no sense in asking again
}

// MemberStatus is a member as a dashboard shows it.
type MemberStatus struct {
	Member
	Rank       int    // in the current view; -1 when it is not in it
	Status     string // training, forming, finished, fencing, fenced, held, joining, spare, leaving, detached
	Applied    Step
	Generation Generation
}

// Members lists the attached members: those of the view in rank order, then the others as they joined.
func (s *State) Members() []MemberStatus {
	out := make([]MemberStatus, 0, len(s.order))
	for _, m := range s.roster() {
		out = append(out, MemberStatus{m.Member, m.rank, s.status(m), m.fence.Applied, m.fence.Generation})
	}
	for _, m := range s.order {
		if !m.inView {
			out = append(out, MemberStatus{m.Member, -1, s.status(m), m.fence.Applied, m.fence.Generation})
		}
	}
	return out
}

func (s *State) status(m *member) string {
	switch {
	case m.detached:
		return "detached"
	case m.leaving:
		return "leaving"
	case s.phase == PhasePreparing && m.asked && m.answered:
		return "fenced"
	case s.phase == PhasePreparing && m.asked:
		return "fencing"
	case !m.inView && s.view != nil && s.view.World() >= s.room(s.order):
		return "spare"
	case !m.inView:
		return "joining"
	case s.phase == PhaseWaiting:
		return "held"
	case m.finished:
		return "finished"
	case s.group.resumed:
		return "training"
	}
	return "forming"
}

// roster lists the present members of the current view, in rank order.
func (s *State) roster() []*member {
	var in []*member
	for _, m := range s.order {
		if m.inView {
			in = append(in, m)
		}
	}
	slices.SortFunc(in, func(a, b *member) int { return a.rank - b.rank })
	return in
}

// touch renews a known member's lease.
func (s *State) touch(t time.Duration, id MemberID) *member {
	m := s.members[id]
	if m != nil {
		m.heard = t
	}
	return m
}

func (s *State) joined(t time.Duration, e Joined) {
	if m := s.touch(t, e.Member.ID); m != nil {
		s.reattached(t, m, e)
		return
	}
	e.Fence = e.Fence.sane()
	if e.Member.ID == "" {
		return
	}
	if why := s.refusal(e); why != "" {
		s.emit(Evict{ID: e.Member.ID, Reason: why, Final: true})
		return
	}
	if s.view == nil && len(s.order) == 0 {
		s.shards = e.Shards
	}
	if s.policy.Min > s.maxWorld() {
		s.end(2, fmt.Sprintf("at least %d workers are asked for, but at most %d can share %d shards: lower the minimum or raise the shards",
			s.policy.Min, s.maxWorld(), s.shards))
		return
	}
	// Only a coordinator that lost its store is behind its members; it must not use their generations again.
	s.seen = max(s.seen, e.Fence.Generation)
	m := &member{Member: e.Member, fence: e.Fence, heard: t, joinedAt: t, eligible: t + s.probation(e.Member.ID), rank: -1}
	s.members[m.ID] = m
	s.order = append(s.order, m)
	if s.phase == PhaseRecovering && s.view.RankOf(m.ID) >= 0 {
		m.inView, m.rank = true, s.view.RankOf(m.ID)
		delete(s.gone, m.ID)
		if e.Fence.HoldsState {
			s.progress(t, m, e.Fence.Applied)
		}
	} else {
		s.note("join", m, "")
	}
	switch s.phase { // otherwise the next tick sees to it: a burst of joins costs no more than one look
	case PhaseForming, PhaseWaiting:
		if len(s.order) >= s.enough() {
			s.advance(t)
		}
	case PhaseRecovering:
		if len(s.order)+len(s.gone) >= s.view.World() {
			s.advance(t)
		}
	}
}

// refusal is why the job cannot have the member, ever.
func (s *State) refusal(e Joined) string {
	if e.Fence.Generation > maxGeneration {
		return fmt.Sprintf("it claims generation %d", e.Fence.Generation)
	}
	if e.Shards < 1 {
		return fmt.Sprintf("its program splits a step into %d shards: it takes at least 1", e.Shards)
	}
	if s.view == nil && len(s.order) == 0 {
		return ""
	}
	if e.Shards != s.shards {
		return fmt.Sprintf("its program splits a step into %d shards, this job into %d: start it with the same arguments", e.Shards, s.shards)
	}
	var class string
	if s.view != nil {
		class = s.view.Roster[0].Class
	} else {
		class = s.order[0].Class
	}
	if e.Member.Class != class {
		return fmt.Sprintf("its arithmetic is of class %q, this job's of class %q: their results differ in the last bits, so they cannot train together",
			e.Member.Class, class)
	}
	return ""
}

// maxGeneration bounds what a member may claim, so that counting on from there cannot wrap.
const maxGeneration = 1 << 62

// maxStep bounds what a member may claim likewise.
const maxStep = 1 << 62

// sane takes what cannot be for a state that is not there.
func (f Fence) sane() Fence {
	if f.Applied < 0 || f.Applied > maxStep {
		f.Applied, f.HoldsState, f.HoldsReduced = 0, false, false
	}
	if f.Checkpoint < 0 || f.Checkpoint > maxStep {
		f.Checkpoint = 0
	}
	return f
}

// reattached repeats to a member what it may have missed while its stream was broken. The group itself may
// train on all the time: no view changes for a control connection.
func (s *State) reattached(t time.Duration, m *member, e Joined) {
	m.detached = false
	m.accused = 0
	m.fence = e.Fence.sane()
	s.seen = max(s.seen, min(e.Fence.Generation, maxGeneration))
	switch {
	case s.phase == PhasePreparing && m.asked:
		if m.answered { // the answer to come is the newer one
			m.answered = false
			s.silent++
		}
		s.emit(Prepare{To: m.ID, Generation: s.gen, Reason: s.reason})
	case s.phase == PhaseRunning && m.inView && e.Fence.View < s.view.Generation:
		s.emit(Announce{To: m.ID, View: s.view})
	}
}

func (s *State) detached(t time.Duration, e Detached) {
	m := s.members[e.ID]
	if m == nil {
		return
	}
	m.detached = true
	s.doubted(t, m)
}

// doubted acts when two witnesses agree: the coordinator lost the stream and a peer lost the data connection.
func (s *State) doubted(t time.Duration, m *member) {
	if m.detached && m.inView && s.view != nil && m.accused == s.view.Generation {
		s.remove(m, "its control stream and a peer's connection to it broke")
		s.afterLoss(t)
	}
}

func (s *State) lost(t time.Duration, e Lost) {
	delete(s.strikes, e.ID)
	if m := s.members[e.ID]; m != nil {
		s.remove(m, e.Reason)
		s.afterLoss(t)
	} else if s.phase == PhaseRecovering && s.view.RankOf(e.ID) >= 0 {
		s.gone[e.ID] = true
		s.advance(t)
	}
}

func (s *State) departed(t time.Duration, e Departed) {
	if m := s.touch(t, e.ID); m != nil && !m.leaving {
		m.leaving, m.leftAt, m.why = true, t, e.Reason
		if s.phase == PhaseRunning && !m.inView { // elsewhere it may be the only one with a state
			s.remove(m, s.leaveReason(m))
			s.afterLoss(t)
			return
		}
		s.advance(t)
	}
}

func (s *State) leaveReason(m *member) string {
	if m.why == "" {
		return "it leaves"
	}
	return "it leaves: " + m.why
}

// overdue is why time is up for a member, empty when it is not.
func (s *State) overdue(t time.Duration, m *member) string {
	if silence := t - m.heard; silence > s.limits.Lease {
		return fmt.Sprintf("silent for %.1f s (lease %s)", silence.Seconds(), seconds(s.limits.Lease))
	}
	if s.phase == PhasePreparing && m.asked && !m.answered && t-m.askedAt > s.limits.Answer {
		return fmt.Sprintf("did not answer the call to generation %d within %s", s.gen, seconds(s.limits.Answer))
	}
	return ""
}

// probation is how long a member that joins is left outside: not at all, unless it was called before and did not answer. Such a
// one (a hung program whose heartbeats live) would hold up the others again and again.
func (s *State) probation(id MemberID) time.Duration {
	n := s.strikes[id]
	if n == 0 {
		return 0
	}
	return s.policy.Settle << min(n, maxProbation)
}

// maxProbation bounds the doublings of the probation: 64 Settles.
const maxProbation = 6

// remove cuts a member off. The caller goes on with afterLoss.
func (s *State) remove(m *member, reason string) {
	delete(s.members, m.ID)
	if m.asked && !m.answered {
		s.silent--
	}
	s.order = slices.DeleteFunc(s.order, func(o *member) bool { return o == m })
	s.evicts = append(s.evicts, Evict{ID: m.ID, Reason: reason, Final: m.leaving})
	s.note("loss", m, reason)
	s.lossReason = fmt.Sprintf("%s was lost: %s", m.ID, reason)
	if s.phase == PhaseRecovering && m.inView {
		s.gone[m.ID] = true
	}
}

// afterLoss draws the consequences of one or more removals.
func (s *State) afterLoss(t time.Duration) {
	switch s.phase {
	case PhaseRunning:
		if len(s.roster()) == s.view.World() {
			return // only members outside the view were lost
		}
		if !s.tryFinish() {
			s.prepare(t, s.lossReason, causeLoss)
		}
	case PhasePreparing:
		s.enlist(t)
		s.tryDecide(t)
	default:
		s.advance(t)
	}
}
