package worker

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/zeebo/xxh3"
	"golang.org/x/sync/errgroup"

	"github.com/farandole-ml/farandole/collective"
	"github.com/farandole-ml/farandole/collective/transport"
	"github.com/farandole-ml/farandole/elastic"
)

// connectLimit is how long the mesh of a view may take to come up: this many times Liveness.
const connectLimit = 5

// messageLen is the largest message of a state transfer.
const messageLen = 4 << 20

// connect makes the mesh of g. It runs beside the program, which may still be in a long Gradients of the generation
// before: the others do not wait for it to return.
func (s *Session) connect(g *generation) {
	s.strike(PointForming, s.pos.at().Applied, g.rank)
	limit := connectLimit * s.cfg.Liveness
	ctx, cancel := context.WithTimeoutCause(g.ctx, limit, fmt.Errorf("no mesh after %v", limit))
	defer cancel()
	addrs := make([]string, g.world())
	for r, m := range g.view.Roster {
		addrs[r] = m.Addr
	}
	id := transport.ID{Job: g.view.Job, Generation: g.number(), Rank: g.rank}
	g.connected(s.listener.Connect(ctx, id, addrs))
}

// keep holds g's mesh from its making until the generation ends.
func (s *Session) keep(g *generation) {
	s.connect(g)
	<-g.ctx.Done()
	if g.group != nil {
		_ = g.group.Close()
	}
}

// form carries out what the view asks of this worker, up to the agreement of all. lag says that the program must apply the
// reduced gradient that came in; form is called again after that.
func (s *Session) form(g *generation) (lag bool, err error) {
	select {
	case <-g.ready:
	case <-g.ctx.Done():
		return false, context.Cause(g.ctx)
	}
	if g.err != nil {
		return false, g.err
	}
	s.vec.group = g.group
	if !s.pos.begin(g) {
		return false, collective.ErrGenerationChanged
	}
	if g.stage == stageConnect {
		s.strike(PointSync, s.pos.at().Applied, g.rank)
		if lag, err = s.carryOut(g); lag || err != nil {
			if err != nil {
				s.pos.settle(nil)
			}
			return lag, err
		}
		g.stage = stageAgree
	}
	err = s.agree(g)
	s.pos.settle(func(f *elastic.Fence) {
		if err == nil {
			f.Term = s.term(g.view.ResumeTerm)
		}
	})
	if err != nil {
		return false, err
	}
	g.stage = stageFormed
	s.pos.setBroken(false)
	s.mail.position(g.number(), g.view.Resume)
	s.mail.formed(g.number())
	s.log.Info("formed", "gen", g.number(), "rank", g.rank, "world", g.world(), "step", int64(g.view.Resume))
	if s.unsaved {
		s.save(g, g.view.Resume)
	}
	return false, nil
}

// carryOut does this worker's part of the sync plan. The position is busy.
func (s *Session) carryOut(g *generation) (lag bool, err error) {
	plan := g.view.Sync[g.rank]
	at := s.pos.at()
	switch plan.Kind {
	case elastic.SyncNone:
		if at.Applied != g.view.Resume || !at.HoldsState {
			return false, fmt.Errorf("the view takes this worker to be at step %d; it is at step %d, state held: %v",
				g.view.Resume, at.Applied, at.HoldsState)
		}
	case elastic.SyncReduced:
		if at.Applied != g.view.Resume && at.Applied+1 != g.view.Resume || !at.HoldsState || len(plan.From) != 1 {
			return false, fmt.Errorf("the reduced gradient of step %d does not help this worker: it is at step %d", g.view.Resume, at.Applied)
		}
		if err := s.receiveReduced(g, plan.From[0]); err != nil {
			return false, err
		}
		if at.Applied < g.view.Resume {
			g.stage = stageAgree
			return true, nil // busy until its Commit
		}
	case elastic.SyncState:
		if err := s.receiveState(g, plan.From); err != nil {
			return false, err
		}
	case elastic.SyncCheckpoint:
		if err := s.load(g.ctx, g.view.Resume); err != nil {
			return false, err
		}
	}
	return false, s.supply(g)
}

// supply sends what the others' plans ask of this rank.
func (s *Session) supply(g *generation) error {
	asked := func(kind elastic.SyncKind) bool {
		return slices.ContainsFunc(g.view.Sync, func(p elastic.SyncPlan) bool { return p.Kind == kind && slices.Contains(p.From, g.rank) })
	}
	if asked(elastic.SyncState) {
		if err := s.mirror.pull(); err != nil {
			return err
		}
	}
	if asked(elastic.SyncReduced) {
		if err := s.bringHome(); err != nil {
			return err
		}
	}
	var eg errgroup.Group
	for to, p := range g.view.Sync {
		for k, from := range p.From {
			if from != g.rank {
				continue
			}
			switch p.Kind {
			case elastic.SyncReduced:
				if s.vec.committed != g.view.Resume || s.vec.step != g.view.Resume {
					return fmt.Errorf("rank %d needs the reduced gradient of step %d, which is not here", to, g.view.Resume)
				}
				eg.Go(func() error { return guard(g, to, "sending the gradient", s.sendAll(g, to, asBytes(s.vec.reduced))) })
			case elastic.SyncState:
				eg.Go(func() error { return guard(g, to, "sending state", s.sendAll(g, to, s.stripe(k, len(p.From))...)) })
			}
		}
	}
	return eg.Wait()
}

// guard ends the whole sync when one of its transfers fails, and names the peer.
func guard(g *generation, peer int, op string, err error) error {
	if err == nil {
		return nil
	}
	var pe *collective.PeerError
	if !errors.As(err, &pe) && g.ctx.Err() == nil {
		err = &collective.PeerError{Rank: peer, Op: op, Err: err}
	}
	g.group.Abort(err)
	return err
}

// stripe is part k of n of the state, as pieces of memory in order.
func (s *Session) stripe(k, n int) [][]byte {
	total := 0
	for _, t := range s.tensors {
		total += len(t.Data)
	}
	first, end := int(int64(total)*int64(k)/int64(n)), int(int64(total)*int64(k+1)/int64(n))
	var out [][]byte
	at := 0
	for _, t := range s.tensors {
		lo, hi := max(first, at), min(end, at+len(t.Data))
		if lo < hi {
			out = append(out, asBytes(t.Data[lo-at:hi-at]))
		}
		at += len(t.Data)
	}
	return out
}

// sendAll sends pieces, then the xxh3 of all of them.
func (s *Session) sendAll(g *generation, to int, pieces ...[]byte) error {
	h := xxh3.New()
	for _, p := range pieces {
		for len(p) > 0 {
			n := min(len(p), messageLen)
			_, _ = h.Write(p[:n])
			if err := g.group.Send(g.ctx, to, p[:n]); err != nil {
				return err
			}
			s.mail.moved.Add(int64(n))
			p = p[n:]
		}
	}
	return g.group.Send(g.ctx, to, binary.LittleEndian.AppendUint64(nil, h.Sum64()))
}

// errCorrupt says that what a peer sent has another hash than what arrived.
var errCorrupt = errors.New("the hash of what arrived is not the sender's")

// receiveAll is the other side of sendAll.
func (s *Session) receiveAll(g *generation, from int, pieces ...[]byte) error {
	h := xxh3.New()
	for _, p := range pieces {
		for len(p) > 0 {
			n := min(len(p), messageLen)
			if err := g.group.Recv(g.ctx, from, p[:n]); err != nil {
				return err
			}
			_, _ = h.Write(p[:n])
			s.mail.moved.Add(int64(n))
			p = p[n:]
		}
	}
	var sum [8]byte
	if err := g.group.Recv(g.ctx, from, sum[:]); err != nil {
		return err
	}
	if binary.LittleEndian.Uint64(sum[:]) != h.Sum64() {
		return errCorrupt
	}
	return nil
}

func (s *Session) receiveReduced(g *generation, from int) error {
	b := s.vec.take()
	if err := guard(g, from, "receiving the gradient", s.receiveAll(g, from, asBytes(b))); err != nil {
		s.vec.give(b)
		return err
	}
	s.vec.keep(b, g.view.Resume)
	return nil
}

// receiveState replaces the whole state. If it fails this worker has none.
func (s *Session) receiveState(g *generation, from []int) error {
	if len(from) == 0 {
		return errors.New("the view names nobody to send the state")
	}
	s.unhold()
	start := time.Now()
	var eg errgroup.Group
	for k, r := range from {
		eg.Go(func() error { return guard(g, r, "receiving state", s.receiveAll(g, r, s.stripe(k, len(from))...)) })
	}
	if err := eg.Wait(); err != nil {
		return err
	}
	if err := s.mirror.push(); err != nil {
		return err
	}
	s.hold(g.view.Resume, s.term(g.view.ResumeTerm))
	s.counters.recoveries.Add(1)
	s.log.Info("state received", "gen", g.number(), "step", int64(g.view.Resume), "from", from, "took", time.Since(start))
	return nil
}

// term is what a fence says of the generation that committed a step: nothing when the reduction is exact, since a step
// then has the same result in whichever generation it was done.
func (s *Session) term(g elastic.Generation) elastic.Generation {
	if s.cfg.Reduce == ReduceTree {
		return 0
	}
	return g
}

// unhold says that the state is about to be overwritten; hold, that it is that of a step.
func (s *Session) unhold() {
	s.vec.lose()
	s.pos.edit(func(f *elastic.Fence) { f.Applied, f.HoldsState, f.HoldsReduced, f.Term = 0, false, false, 0 })
}

func (s *Session) hold(step elastic.Step, term elastic.Generation) {
	s.pos.edit(func(f *elastic.Fence) { f.Applied, f.HoldsState, f.HoldsReduced, f.Term = step, true, false, term })
}
