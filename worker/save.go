package worker

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/farandole-ml/farandole/checkpoint"
	pb "github.com/farandole-ml/farandole/coordinator/coordinatorpb"
	"github.com/farandole-ml/farandole/elastic"
)

// Limits of checkpointing.
const (
	keepCheckpoints = 3  // newest complete ones that Prune leaves
	commitLimit     = 60 // × Liveness, and
	commitPatience  = 10 // × the time of the own part: how long rank 0 waits for the others' parts
)

// saver writes checkpoints beside training, one at a time. The training goroutine calls it.
type saver struct {
	dir     *checkpoint.Dir
	copy    []checkpoint.Tensor // as registered; Data is valid where this rank's share lies
	running *saving

	bad atomic.Pointer[map[elastic.Step]bool] // checkpoints that could not be loaded
}

// saving is one checkpoint being written.
type saving struct {
	step   elastic.Step
	gen    elastic.Generation
	cancel context.CancelFunc
	done   chan struct{}
}

// due says whether step is one after which a checkpoint is saved.
func (s *Session) due(step elastic.Step) bool {
	if s.saver == nil || step <= 0 {
		return false
	}
	return step == s.target() || s.cfg.CheckpointEvery > 0 && int64(step)%s.cfg.CheckpointEvery == 0
}

func (s *Session) meta(step elastic.Step, g elastic.Generation) checkpoint.Meta {
	return checkpoint.Meta{
		Job: s.cfg.Job, Step: step, Generation: g, Seed: s.plan.Seed, Shards: s.plan.Shards, Wire: s.cfg.Wire,
		Class: s.plan.Class, Program: s.plan.Program,
	}
}

// save copies this rank's share of the state and starts writing it. An earlier save is waited for; one of an earlier
// generation, which may lack parts for ever, is given up. Training stalls for the wait and the copy.
func (s *Session) save(g *generation, step elastic.Step) {
	start := time.Now()
	v := s.saver
	if r := v.running; r != nil {
		if r.gen < g.number() {
			r.cancel()
		}
		select {
		case <-r.done:
		case <-g.ctx.Done(): // saved again under the next view, if that resumes here
			return
		}
		v.running = nil
	}
	err := s.mirror.pull()
	if err == nil {
		err = v.snapshot(s.tensors, g.rank, g.world())
	}
	if err != nil {
		s.log.Warn("checkpoint not saved; training goes on", "step", int64(step), "err", err)
		return
	}
	blocked := time.Since(start)
	s.counters.saveBlocked.Add(int64(blocked))
	ctx, cancel := context.WithCancel(s.life)
	r := &saving{step: step, gen: g.number(), cancel: cancel, done: make(chan struct{})}
	v.running = r
	s.wg.Go(func() {
		defer close(r.done)
		defer cancel()
		if err := s.write(ctx, g, step, blocked); err != nil && ctx.Err() == nil {
			s.counters.saveFailures.Add(1)
			s.log.Warn("checkpoint not saved; training goes on, the one before it stays", "step", int64(step), "gen", g.number(), "rank", g.rank, "err", err)
		}
	})
}

// snapshot copies the share of part of parts.
func (v *saver) snapshot(tensors []checkpoint.Tensor, part, parts int) error {
	if v.copy == nil {
		for _, t := range tensors {
			v.copy = append(v.copy, checkpoint.Tensor{Name: t.Name, Shape: t.Shape, Data: make([]float32, len(t.Data))})
		}
	}
	spans, err := checkpoint.Share(tensors, part, parts)
	if err != nil {
		return err
	}
	for _, sp := range spans {
		copy(v.copy[sp.Tensor].Data[sp.First:sp.End], tensors[sp.Tensor].Data[sp.First:sp.End])
	}
	return nil
}

// write saves this rank's part; rank 0 commits and tells the coordinator.
func (s *Session) write(ctx context.Context, g *generation, step elastic.Step, blocked time.Duration) error {
	start := time.Now()
	m, dir, tensors := s.meta(step, g.number()), s.saver.dir, s.saver.copy
	if err := dir.SavePart(ctx, m, tensors, g.rank, g.world()); err != nil {
		return err
	}
	if g.rank != 0 {
		return nil
	}
	limit := commitLimit*s.cfg.Liveness + commitPatience*time.Since(start)
	within, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if err := dir.Commit(within, m, tensors, g.world()); err != nil {
		return err
	}
	var bytes int64
	for _, t := range tensors {
		bytes += 4 * int64(len(t.Data))
	}
	s.counters.checkpoints.Add(1)
	s.mail.saved(&pb.Saved{
		Step: int64(step), Path: fmt.Sprintf("%s/step-%08d", dir.Path(), step), Bytes: bytes,
		BlockingSeconds: blocked.Seconds(), WriteSeconds: time.Since(start).Seconds(),
	})
	if _, err := dir.Prune(keepCheckpoints); err != nil {
		s.log.Warn("old checkpoints not pruned", "err", err)
	}
	return nil
}

// complete says whether the checkpoint of step is there.
func (v *saver) complete(step elastic.Step) bool {
	infos, err := v.dir.List()
	if err != nil {
		return false
	}
	for _, in := range infos {
		if in.Step == step && in.Complete && in.Problem == "" {
			return true
		}
	}
	return false
}

// newest is the newest complete checkpoint's step; 0 for none. One whose damage shows without reading it counts as well, until it was tried:
// who passed it over would lose its steps, or all, without a word. It may be called by any goroutine.
func (v *saver) newest() elastic.Step {
	infos, err := v.dir.List()
	if err != nil {
		return 0
	}
	for i := len(infos) - 1; i >= 0; i-- {
		in := infos[i]
		if bad := v.bad.Load(); bad != nil && (*bad)[in.Step] {
			continue
		}
		if in.Complete {
			return in.Step
		}
	}
	return 0
}

// spoil remembers that the checkpoint of step cannot be used.
func (v *saver) spoil(step elastic.Step) {
	bad := map[elastic.Step]bool{step: true}
	if old := v.bad.Load(); old != nil {
		for s := range *old {
			bad[s] = true
		}
	}
	v.bad.Store(&bad)
}

// load replaces the whole state by the checkpoint of step. A damaged one is remembered and not offered again; one that
// belongs to something else is fatal.
func (s *Session) load(ctx context.Context, step elastic.Step) error {
	if s.saver == nil {
		return fmt.Errorf("the view asks for the checkpoint of step %d, and this worker has no checkpoint directory", step)
	}
	s.unhold()
	m, err := s.saver.dir.Load(ctx, step, s.plan.Program, s.tensors)
	if err == nil {
		err = s.foreign(m)
	}
	if err == nil {
		err = s.mirror.push()
	}
	var mismatch *checkpoint.MismatchError
	switch {
	case err == nil:
		s.hold(step, 0)
		s.counters.recoveries.Add(1)
		return nil
	case isDevice(err):
		return err
	case errors.As(err, &mismatch):
		return &fatalError{&UsageError{err.Error()}}
	case ctx.Err() != nil:
		return context.Cause(ctx)
	}
	s.saver.spoil(step)
	s.log.Warn("checkpoint not usable, looking for the one before it", "step", int64(step), "err", err)
	return err
}

// foreign says how a checkpoint's origin differs from this job in what decides the bits.
func (s *Session) foreign(m checkpoint.Meta) error {
	have := fmt.Sprintf("seed %d, %d shards, wire %s, numerics class %s", m.Seed, m.Shards, m.Wire, m.Class)
	want := fmt.Sprintf("seed %d, %d shards, wire %s, numerics class %s", s.plan.Seed, s.plan.Shards, s.cfg.Wire, s.plan.Class)
	if have == want {
		return nil
	}
	return &checkpoint.MismatchError{Path: fmt.Sprintf("of step %d", m.Step), What: "origin", Have: have, Want: want}
}
