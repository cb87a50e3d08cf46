package elastic

import (
	"fmt"
	"slices"
	"time"
)

// The phases of a job, as State.Phase gives them.
const (
	PhaseForming    = "forming"    // before the first view
	PhaseRunning    = "running"    // a view is announced; its group forms or trains
	PhasePreparing  = "preparing"  // members are being fenced for the next generation
	PhaseWaiting    = "waiting"    // fewer than Min members; who is left is fenced and holds its state
	PhaseRecovering = "recovering" // the coordinator restarted and waits for the members of the last view
	PhaseEnded      = "ended"
)

// State decides one job's views. It is a pure state machine: the coordinator and the simulator both drive it.
// The zero value is not usable; call New or Restore. It is not safe for concurrent use.
//
// Invariants: the generation never goes back, and it is durable before anybody hears of it; a generation has
// one view at most, durable before anybody hears of it; a view is announced only after each of its members was
// fenced below its generation.
//
// The driver carries out the actions of one Step in their order before it feeds the next event; when a Persist fails it must
// stop, and start again with Restore. It feeds a Tick at least every Limits.Heartbeat. What it sends to a
// member whose stream is broken may get lost: the member attaches again, and State repeats what it must know.
type State struct {
	policy Policy
	limits Limits
	clock  clock
	out    []Action
	evicts []Action // come last, so that the others are fenced first

	phase   string
	gen     Generation // highest ever used in a Prepare or a View
	seen    Generation // highest that a member claims; above gen only when our store was set back
	shards  int
	view    *View  // last announced; never modified, since the driver holds it too
	ledger  []Term // the last is the view's own and open
	ended   *Ended
	members map[MemberID]*member
	order   []*member // in the order of joining

	strikes map[MemberID]int // how often a member did not answer; forgotten when it is lost for good or forms a group

	group group // what is known of the view's group

	lossReason string // of the last removal

	// Valid while preparing.
	cause  cause
	reason string
	target int // members asked at the start; losses are made up from the spares
	silent int // members asked that have not answered

	calledAt time.Duration

	// Valid while forming or waiting.
	starveFrom time.Duration // when the job first fell below Min after its last view
	starving   bool
	stateless  bool // Min members are there but none holds any state

	// Valid while recovering.
	regroupFrom time.Duration
	gone        map[MemberID]bool // members of the view that are known to be lost
}

// New starts a job that never ran.
func New(p Policy) *State {
	p = p.withDefaults()
	s := &State{policy: p, limits: LimitsOf(p.Liveness), phase: PhaseForming, members: map[MemberID]*member{}, strikes: map[MemberID]int{}}
	s.clock.most = 2 * s.limits.Heartbeat
	return s
}

// Restore goes on after a coordinator restart from the last Persist that was durable.
// now is on the clock of the Steps to come.
func Restore(p Policy, r Record, now time.Duration) *State {
	if p.Job == "" {
		p.Job = r.Job
	}
	s := New(p)
	s.clock.tick(now)
	s.gen, s.view, s.shards, s.ended = r.Generation, r.View, r.Shards, r.Ended
	s.ledger = slices.Clone(r.Ledger)
	switch {
	case s.ended != nil:
		s.phase = PhaseEnded
	case s.view != nil:
		s.phase = PhaseRecovering
		s.regroupFrom = s.clock.at
		s.gone = map[MemberID]bool{}
		s.group = group{best: s.view.Resume, progressAt: s.clock.at, unformed: s.view.World(), unfinished: s.view.World()}
	}
	return s
}

func (p Policy) withDefaults() Policy {
	p.Min = max(p.Min, 1)
	if p.Settle <= 0 {
		p.Settle = time.Second
	}
	if p.Liveness <= 0 {
		p.Liveness = time.Second
	}
	if p.Start < p.Min {
		p.Start = p.Min
	}
	return p
}

// Step takes one event at time now (monotonic, from any origin, never going back) and says what to do.
// Stale, repeated and unexpected events do no harm. The actions belong to the caller; the views in them are shared and
// must not be changed.
func (s *State) Step(now time.Duration, e Event) []Action {
	s.out, s.evicts = nil, nil
	if s.phase == PhaseEnded {
		if j, ok := e.(Joined); ok {
			s.emit(Evict{ID: j.Member.ID, Reason: "the job is over: " + s.ended.Reason, Final: true})
		}
		return s.out
	}
	t := s.clock.now(now)
	switch e := e.(type) {
	case Joined:
		s.joined(t, e)
	case Detached:
		s.detached(t, e)
	case Lost:
		s.lost(t, e)
	case Heard:
		s.heard(t, e)
	case Suspected:
		s.suspected(t, e)
	case Fenced:
		s.fenced(t, e)
	case Formed:
		s.formed(t, e)
	case Finished:
		s.finished(t, e)
	case Departed:
		s.departed(t, e)
	case Tick:
		s.clock.tick(now)
		s.tick(t)
	case Stop:
		s.end(1, e.Reason)
	}
	return append(s.out, s.evicts...)
}

func (s *State) emit(a Action) { s.out = append(s.out, a) }

func (s *State) note(kind string, m *member, reason string) {
	n := Note{Kind: kind, Rank: -1, Generation: s.gen, Step: s.group.best, Reason: reason}
	if m != nil {
		n.ID = m.ID
		if m.inView {
			n.Rank = m.rank
		}
	}
	if s.view != nil {
		n.World = s.view.World()
	}
	s.emit(n)
}

func (s *State) persist() { s.emit(Persist{Record: s.Record()}) }

// tick judges everything that depends on time alone: first all the members, so that those who fell silent together
// cost one view; then what the phase waits for.
func (s *State) tick(t time.Duration) {
	var removed bool
	for _, m := range slices.Clone(s.order) {
		if reason := s.overdue(t, m); reason != "" {
			if t-m.heard <= s.limits.Lease { // it lives but did not answer
				s.strikes[m.ID]++
			}
			s.remove(m, reason)
			removed = true
		}
	}
	if removed {
		s.afterLoss(t)
	}
	s.advance(t)
}

// advance moves the phase on when what it waits for has come. It is called after every event that could matter.
func (s *State) advance(t time.Duration) {
	switch s.phase {
	case PhaseForming, PhaseWaiting:
		s.gather(t)
	case PhaseRecovering:
		s.regroup(t)
	case PhaseRunning:
		if why, c := s.needsView(t); why != "" {
			s.prepare(t, why, c)
		}
	case PhasePreparing:
		s.tryDecide(t)
	}
}

// gather starts the first view, or the first after a wait, once enough members are present.
func (s *State) gather(t time.Duration) {
	in, out := s.splitLeaving(s.order)
	for _, m := range out {
		s.remove(m, s.leaveReason(m))
	}
	in = slices.DeleteFunc(in, func(m *member) bool { return t < m.eligible })
	n, enough := len(in), s.enough()
	var last time.Duration
	for _, m := range in {
		last = max(last, m.eligible)
	}
	fresh := slices.ContainsFunc(in, func(m *member) bool { return !m.tried })
	if fresh && n >= s.policy.Min && (n >= enough || t-last >= s.policy.Settle) {
		reason := "the first view"
		if s.view != nil {
			reason = "enough workers are there again"
		}
		s.prepare(t, reason, causeJoin)
		return
	}
	if s.phase == PhaseWaiting && t-s.starveFrom > s.limits.Starve {
		if s.stateless {
			s.end(1, "nobody holds the training state any more, and there is no usable checkpoint: start the job again, with damaged ones moved away")
			return
		}
		s.end(3, fmt.Sprintf("%d of at least %d workers after %s", n, s.policy.Min, seconds(s.limits.Starve)))
	}
}

// enough is how many members start a view at once: as many as were asked for, or as there were before.
func (s *State) enough() int {
	if s.view != nil {
		return min(s.view.World(), s.maxWorld())
	}
	return min(s.policy.Start, s.maxWorld())
}

// wait ends an attempt at a view that lacks members or state. Who was fenced stays so.
func (s *State) wait(t time.Duration, reason string) {
	for _, m := range s.order {
		if s.stateless && m.asked {
			m.inView, m.rank = false, -1 // it must not take the place of one who brings a state
		}
		m.tried = m.tried || m.asked
		m.asked = false
	}
	s.silent = 0
	s.phase = PhaseForming
	if s.view != nil {
		s.phase = PhaseWaiting
	}
	if !s.starving {
		s.starving, s.starveFrom = true, t
	}
	s.note("wait", nil, reason)
}

func (s *State) end(code int, reason string) {
	s.closeTerm()
	e := Ended{Code: code, Reason: reason}
	s.phase, s.ended = PhaseEnded, &e
	s.persist()
	s.note("done", nil, reason)
	s.emit(e)
}

// maxWorld is the largest world size that the policy and the shards allow.
func (s *State) maxWorld() int {
	if s.policy.Max > 0 {
		return min(s.policy.Max, s.shards)
	}
	return s.shards
}

// room is the largest world size of a view with members of those given: one more for each that leaves, so that somebody
// can take its state over.
func (s *State) room(of []*member) int {
	n := s.maxWorld()
	for _, m := range of {
		if m.leaving {
			n++
		}
	}
	return min(n, s.shards)
}

// View is the last announced view, nil before the first. It must not be changed.
func (s *State) View() *View { return s.view }

// Generation is the highest generation ever used.
func (s *State) Generation() Generation { return s.gen }

// Phase is one of the Phase constants.
func (s *State) Phase() string { return s.phase }

// Shards is the job's shard count, 0 before the first member joined.
func (s *State) Shards() int { return s.shards }

// Applied is the newest step that is known to be committed in the current view.
func (s *State) Applied() Step { return s.group.best }

// Limits gives the timeouts in force.
func (s *State) Limits() Limits { return s.limits }

// Result is how the job ended, nil while it goes on.
func (s *State) Result() *Ended { return s.ended }

// Record is what Persist would make durable now.
func (s *State) Record() Record {
	return Record{Job: s.policy.Job, Generation: s.gen, View: s.view, Ledger: slices.Clone(s.ledger), Shards: s.shards, Ended: s.ended}
}

func seconds(d time.Duration) string { return fmt.Sprintf("%g s", d.Seconds()) }
