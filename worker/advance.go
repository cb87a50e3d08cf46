package worker

import (
	"context"
	"errors"
	"fmt"

	"github.com/farandole-ml/farandole/collective"
	"github.com/farandole-ml/farandole/elastic"
)

// advance does what comes next in g: its sync plan, a step, or the end. It leaves s.cur set when the program is to
// act. Errors are fatal.
func (s *Session) advance(ctx context.Context, g *generation) error {
	if g.stage != stageFormed {
		lag, err := s.form(g)
		if err != nil {
			return s.mend(g, err)
		}
		if lag {
			s.cur = &step{number: g.view.Resume, gen: g, lag: true}
		}
		return nil
	}
	applied := s.pos.at().Applied
	if applied >= s.target() {
		return s.conclude(ctx, g)
	}
	if err := s.clearGrads(); err != nil {
		return err
	}
	s.cur = &step{number: applied + 1, gen: g}
	s.cur.sum = s.vec.accumulate(g.view.Ranges[g.rank], s.plan.Shards, s.cfg.Reduce == ReduceTree)
	if s.res.here() {
		s.cur.sum.res = s.res
	}
	return nil
}

// drop forgets the step under way.
func (s *Session) drop() {
	if s.cur == nil {
		return
	}
	c := s.cur
	s.cur = nil
	c.join()
	if len(c.handles) > 0 { // the others wait for the rest of them
		if err := s.mend(c.gen, fmt.Errorf("step %d was dropped while it was reduced", c.number)); err != nil {
			s.fail(err)
		}
		_ = c.await()
	}
	if c.sum != nil {
		c.sum.release()
	}
	if (c.lag || c.reduced) && s.pos.ending() == nil {
		s.cur = c
		s.fail(fmt.Errorf("worker: the program began another step before it committed step %d, whose gradients were reduced", c.number))
	}
}

// mend turns a group's error into a suspicion, and into waiting for the next view. What cannot be mended comes back.
func (s *Session) mend(g *generation, err error) error {
	var fatal *fatalError
	if errors.As(err, &fatal) {
		return fatal.err
	}
	if isDevice(err) {
		return err
	}
	s.leaveDevice()
	if !s.pos.isCurrent(g) || g.broken {
		return nil
	}
	g.broken = true
	peer := elastic.MemberID("")
	var pe *collective.PeerError
	moved := errors.Is(err, collective.ErrPeerMoved) || errors.Is(err, collective.ErrGenerationChanged) // nobody is to blame
	if errors.As(err, &pe) && !moved && pe.Rank >= 0 && pe.Rank < g.world() {
		peer = g.view.Roster[pe.Rank].ID
	}
	g.abort(err) // the peers shall notice at once
	s.pos.setBroken(true)
	s.log.Info("group is broken", "gen", g.number(), "rank", g.rank, "peer", string(peer), "err", err)
	s.mail.suspect(g.number(), peer, err.Error())
	return nil
}

// fatalError ends the job wherever it comes from.
type fatalError struct{ err error }

func (e *fatalError) Error() string { return e.err.Error() }
func (e *fatalError) Unwrap() error { return e.err }
