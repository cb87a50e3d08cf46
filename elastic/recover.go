package elastic

import (
	"fmt"
	"time"
)

// regroup ends the recovery after a coordinator restart. When the whole group is back and nothing had begun to replace
// it, it simply trains on; otherwise the next generation starts, once all that can come are there or their
// time is up.
func (s *State) regroup(t time.Duration) {
	in := s.roster()
	back := len(in) == s.view.World()
	if back && !s.group.broken && max(s.gen, s.seen) == s.view.Generation {
		s.phase = PhaseRunning
		s.group.progressAt = t
		s.group.resumed = s.group.resumed || s.group.best > s.view.Resume
		s.note("resume", nil, "the coordinator restarted and every worker is still there")
		for _, m := range in {
			if m.fence.View < s.view.Generation {
				s.emit(Announce{To: m.ID, View: s.view})
			}
		}
		if !s.tryFinish() {
			s.advance(t)
		}
		return
	}
	if len(in)+len(s.gone) < s.view.World() && t-s.regroupFrom <= s.limits.Regroup {
		return
	}
	s.phase = PhaseRunning // for the moment: what follows ends the job or the phase
	if s.tryFinish() {
		return
	}
	switch {
	case !back:
		s.prepare(t, fmt.Sprintf("the coordinator restarted and %d of %d workers came back", len(in), s.view.World()), causeLoss)
	case s.group.broken:
		s.prepare(t, "the group broke: "+s.group.reason, causeSuspicion)
	default:
		s.prepare(t, "the coordinator restarted during a change of the view", causeLoss)
	}
}
