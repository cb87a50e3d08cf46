package worker

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/farandole-ml/farandole/checkpoint"
	"github.com/farandole-ml/farandole/collective/transport/auto"
	pb "github.com/farandole-ml/farandole/coordinator/coordinatorpb"
	"github.com/farandole-ml/farandole/elastic"
)

// failPatience is how long, × Liveness, a worker that failed waits for the coordinator to know.
const failPatience = 5

// start begins the session's life, once, at the first Next. A program that cannot train is announced to the coordinator too,
// so that the job ends with its reason.
func (s *Session) start() error {
	s.running = true
	s.started = time.Now()
	err := s.check()
	if err == nil && s.cfg.CheckpointDir != "" {
		err = s.openCheckpoints()
	}
	if err == nil {
		s.vec.round = s.cfg.Wire == WireBF16
		s.vec.lay(s.params, s.bucketLen())
		s.pos.edit(func(f *elastic.Fence) { f.HoldsState = true })
		s.res = newResidence(s.mirror.of, s.cfg)
		if s.monitor != nil {
			s.wg.Go(func() { s.monitor.run(s.life) })
		}
	}
	if s.cfg.Coordinator == "" {
		if err != nil {
			return err
		}
		return s.startAlone()
	}
	if err == nil {
		if s.listener, err = auto.Listen(s.cfg.Listen, auto.Config{Path: auto.Path(s.cfg.Transport), Liveness: s.cfg.Liveness, Logger: s.log}); err != nil {
			err = fmt.Errorf("worker: data plane: %w", err)
		}
	}
	s.fit = err == nil
	if !s.fit {
		s.mail.failed(err)
	}
	s.pos.contact(time.Now())
	s.wg.Go(func() { s.control(s.life) })
	return err
}

func (s *Session) check() error {
	p := s.plan
	switch {
	case s.mistake != nil:
		return s.mistake
	case !s.planned:
		return errors.New("worker: the program has no plan: call Plan in Setup")
	case p.Shards < 1:
		return &UsageError{fmt.Sprintf("%d shards: a job needs at least one", p.Shards)}
	case p.Steps < 0:
		return &UsageError{fmt.Sprintf("%d steps: a job cannot do fewer than none", p.Steps)}
	case len(s.params) == 0:
		return errors.New("worker: the program registered no parameters: call Param in Setup")
	}
	return nil
}

func (s *Session) openCheckpoints() error {
	dir, err := checkpoint.Open(s.cfg.CheckpointDir, true)
	if err != nil {
		return &UsageError{fmt.Sprintf("checkpoint directory %s: %v", s.cfg.CheckpointDir, err)}
	}
	s.saver = &saver{dir: dir}
	return nil
}

// startAlone makes a world of one, at the newest checkpoint that is good.
func (s *Session) startAlone() error {
	at := s.pos.at().Applied
	for s.saver != nil {
		newest := s.saver.newest()
		if newest == 0 {
			if at = s.pos.at().Applied; !s.pos.at().HoldsState {
				return fmt.Errorf("no checkpoint in %s is usable; move them away to train from the beginning", s.cfg.CheckpointDir)
			}
			break
		}
		err := s.load(s.life, newest)
		if err == nil {
			at = newest
			break
		}
		var fatal *fatalError
		if errors.As(err, &fatal) {
			return fatal.err
		}
		if isDevice(err) {
			return err
		}
		if s.life.Err() != nil {
			return context.Cause(s.life)
		}
	}
	g := &generation{
		view: &elastic.View{
			Job: s.cfg.Job, Generation: 1, Shards: s.plan.Shards, Resume: at,
			Roster: []elastic.Member{{ID: s.cfg.Member, Host: s.cfg.Host, Class: s.plan.Class}},
			Ranges: []elastic.Range{{First: 0, End: s.plan.Shards}},
			Sync:   []elastic.SyncPlan{{}},
		},
		ready: make(chan struct{}),
		stage: stageFormed,
	}
	close(g.ready)
	g.ctx, g.cancel = context.WithCancelCause(s.life)
	if err := s.settle(g, s.res != nil); err != nil {
		return err
	}
	s.pos.mu.Lock()
	defer s.pos.mu.Unlock()
	s.pos.gen, s.pos.fence.Generation = g, 1
	return nil
}

// watch waits until done, which is called with the position locked, or until the session is over. It gives up when
// there was neither coordinator nor working group for too long.
func (s *Session) watch(ctx context.Context, done func() bool) error {
	p, since := s.pos, time.Now()
	for {
		p.mu.Lock()
		if p.over != nil || done() {
			p.mu.Unlock()
			return nil
		}
		changed, down := p.changed, p.down
		p.mu.Unlock()
		var late <-chan time.Time
		if !down.IsZero() {
			if down.Before(since) {
				down = since
			}
			limit := orphanLimit * s.cfg.Liveness
			t := time.NewTimer(time.Until(down.Add(limit)))
			defer t.Stop()
			late = t.C
		}
		select {
		case <-changed:
		case <-late:
			return &EndedError{1, fmt.Sprintf(
				"no coordinator at %s for %v and no working group: start the coordinator again, or resume from the checkpoints",
				s.cfg.Coordinator, orphanLimit*s.cfg.Liveness)}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// await gives the generation to work in, once there is one; nil when the session is over.
func (s *Session) await(ctx context.Context) (g *generation, err error) {
	err = s.watch(ctx, func() bool {
		if now := s.pos.gen; s.pos.working(now) && !now.broken {
			g = now
		}
		return g != nil
	})
	return g, err
}

// conclude is what comes after the last step: the last checkpoint, the program's Finish, the report; then this worker
// stays available until the job ends or a view changes.
func (s *Session) conclude(ctx context.Context, g *generation) error {
	over := func() bool { return !s.pos.working(g) }
	s.leaveDevice() // before anyone ends and frees what is open here
	if s.saver != nil && s.saver.running != nil {
		select {
		case <-s.saver.running.done:
		case <-g.ctx.Done():
			return nil
		}
	}
	if g.rank == 0 && s.finish != nil && !s.finished {
		s.finished = true
		if err := s.finish(ctx); err != nil {
			return err
		}
	}
	if !s.pos.isCurrent(g) {
		return nil
	}
	if err := s.mirror.pull(); err != nil {
		return err
	}
	at, sum := s.pos.at().Applied, s.weightsSHA256()
	if s.cfg.Coordinator == "" {
		s.report(at, sum)
		s.pos.end(0, nil)
		return nil
	}
	s.mail.finished(&pb.Finished{Generation: uint64(g.number()), Step: int64(at), Loss: s.loss, WeightsSha256: sum})
	return s.watch(ctx, over)
}

// report prints the result of training alone.
func (s *Session) report(at elastic.Step, sum string) {
	_, _ = fmt.Fprintf(s.stderr, "done step %d loss %.6f in %v\n", at, s.loss, time.Since(s.started).Round(time.Millisecond))
	_, _ = fmt.Fprintf(s.stdout, "weights_sha256 %s\n", sum)
}

// weightsSHA256 is over the values of all parameters in registration order, as little-endian float32.
func (s *Session) weightsSHA256() string {
	h := sha256.New()
	for _, p := range s.params {
		_, _ = h.Write(asBytes(p.value))
	}
	return hex.EncodeToString(h.Sum(nil))
}

// fail ends the session with an error of the program or of the job, after the coordinator had time to know it; or with one of
// this worker's device, which the coordinator knows as the end of a worker.
func (s *Session) fail(err error) {
	var over *EndedError
	var usage *UsageError
	code := 1
	s.pos.settle(func(f *elastic.Fence) {
		if s.cur != nil && s.cur.reduced { // an update was begun
			f.HoldsState, f.HoldsReduced = false, false
		}
	})
	if s.cur != nil {
		s.cur.join()
	}
	s.cur = nil
	switch {
	case errors.As(err, &over): // the job's end, not this program's failure
		code = over.Code
	case isDevice(err): // the job goes on without this worker
	case s.life.Err() != nil:
		err = context.Cause(s.life)
	default:
		if errors.As(err, &usage) {
			code = 2
		}
		if s.cfg.Coordinator != "" {
			s.mail.failed(err)
			ctx, cancel := context.WithTimeout(s.life, failPatience*s.cfg.Liveness)
			_ = s.watch(ctx, func() bool { return false })
			cancel()
		}
	}
	s.pos.endWith(code, err)
}

// Fail ends the job with an error of the program: it would fail anywhere. A *UsageError ends it with exit code 2.
func (s *Session) Fail(err error) {
	if s.running {
		s.fail(err)
		s.Close()
		return
	}
	s.mistake = err
}

func (s *Session) clearGrads() error {
	for _, p := range s.params {
		clear(p.grad)
	}
	return s.mirror.clearGradients()
}
