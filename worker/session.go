package worker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/farandole-ml/farandole/checkpoint"
	"github.com/farandole-ml/farandole/collective"
	"github.com/farandole-ml/farandole/collective/transport/auto"
	"github.com/farandole-ml/farandole/elastic"
)

// ErrSkipped says that the step's gradient was not finite and that the policy is to leave such updates out. The step
// is committed already: go on with Next.
var ErrSkipped = errors.New("update left out: the gradient is not finite")

// EndedError says that the job ended otherwise than by reaching its last step.
type EndedError struct {
	Code   int // the process exit code to use
	Reason string
}

func (e *EndedError) Error() string { return e.Reason }

// Session is a program's place in the job. Its methods are for one goroutine.
type Session struct {
	cfg Config
	log *slog.Logger

	plan    Plan
	planned bool
	params  []param
	tensors []checkpoint.Tensor // values of the parameters, then the further state
	mirror  mirror
	res     *residence // nil: gradients are reduced by way of the host
	mistake error      // of registration, found when Next is called first
	monitor *monitor   // nil: the device says nothing of itself

	pos       *position
	mail      *mailbox
	listener  *auto.Listener // nil alone
	limits    elastic.Limits
	preempt   atomic.Bool // vote to stop after the next step
	stdout    io.Writer
	stderr    io.Writer
	holdHello func() // for tests: delays every Hello but the first
	inject    func(point string, step elastic.Step, rank int) (nan bool)

	running bool
	fit     bool            // the program can train; else it only reports why not
	life    context.Context //nolint:containedctx // ends with Close; all that the session starts ends with it
	cancel  context.CancelCauseFunc
	wg      sync.WaitGroup // all goroutines of the session
	closed  sync.Once

	// The training goroutine's own.
	vec      vector
	cur      *step
	loss     float64      // mean of the last step, as reduced
	unsaved  bool         // a checkpoint of the view's resume step is due and missing
	stop     elastic.Step // the step that all agreed to stop after; 0: Plan.Steps
	saver    *saver       // nil without a checkpoint directory
	finish   func(ctx context.Context) error
	finished bool // finish has run
	progress func(step elastic.Step, loss float64)
	started  time.Time
	counters counters
}

// step is one step under way.
type step struct {
	number  elastic.Step
	gen     *generation
	lag     bool          // the reduced gradient came from another rank
	sum     *accumulation // nil for lag
	started int           // buckets whose reduction has begun
	handles []*collective.Handle
	feed    *feed // has the sum, started and handles until it is joined; nil when there is none
	reduced bool  // the sum is there: the position is busy until Commit
}

// Join makes a session of cfg, for as long as ctx lives. It checks cfg and starts nothing: register with Plan, Param
// and State, then call Next, which connects.
func Join(ctx context.Context, cfg Config) (*Session, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s := &Session{cfg: cfg, limits: elastic.LimitsOf(cfg.Liveness), inject: cfg.Fault.injector()}
	s.life, s.cancel = context.WithCancelCause(ctx)
	s.stdout, s.stderr = os.Stdout, os.Stderr
	s.log = cfg.Logger.With("member", string(cfg.Member))
	s.mail = newMailbox()
	s.pos = newPosition(s.mail.fenced)
	s.vec.threads = cfg.Threads
	return s, nil
}

// Rank is the current rank, World the current world size. Both are valid within one generation: nothing that a
// program computes may depend on them.
func (s *Session) Rank() int {
	if g := s.pos.current(); g != nil {
		return g.rank
	}
	return 0
}

// World is the current world size.
func (s *Session) World() int {
	if g := s.pos.current(); g != nil {
		return g.world()
	}
	return 1
}

// Step is the step that Next began.
func (s *Session) Step() elastic.Step {
	if s.cur == nil {
		return s.pos.at().Applied
	}
	return s.cur.number
}

// StepContext ends, with cause collective.ErrGenerationChanged, when what is computed for this step will be dropped.
func (s *Session) StepContext() context.Context {
	if s.cur == nil {
		return context.Background()
	}
	return s.cur.gen.ctx
}

// Shards are the shards of the step that this worker computes, in the order in which they must be added. There are
// none when this worker was a step behind and got the sum from another.
func (s *Session) Shards() []elastic.Shard {
	if s.cur == nil || s.cur.lag {
		return nil
	}
	r := s.cur.gen.view.Ranges[s.cur.gen.rank]
	out := make([]elastic.Shard, 0, r.Len())
	for i := r.First; i < r.End; i++ {
		out = append(out, elastic.Shard{Step: s.cur.number, Index: i, Count: s.plan.Shards})
	}
	return out
}

// target is the last step.
func (s *Session) target() elastic.Step {
	if s.stop > 0 {
		return s.stop
	}
	return elastic.Step(s.plan.Steps)
}

// Next waits until this worker can do a step, and begins it; gradients are zero. It is false when the job is over: see Err.
// A step that was begun and not committed is dropped: it begins again.
func (s *Session) Next(ctx context.Context) bool {
	if !s.running {
		if err := s.start(); err != nil {
			s.fail(err)
		}
	}
	s.drop()
	for {
		if s.pos.ending() != nil {
			s.Close()
			return false
		}
		g, err := s.await(ctx)
		if err == nil && g != nil {
			err = s.advance(ctx, g)
		}
		if err != nil {
			s.fail(err)
			continue
		}
		if s.cur != nil {
			return true
		}
	}
}

// Add closes shard, the next of Shards: the gradients enter the step's sum and are zero again. An error of a Mirror
// comes out of AllReduce.
func (s *Session) Add(shard elastic.Shard, loss float64) {
	c := s.cur
	if c == nil || c.sum == nil {
		panic("worker: Add without a step: call Next first")
	}
	c.join()
	nan := s.strike(PointGradients, c.number, c.gen.rank)
	if c.gen.ctx.Err() != nil {
		return // the step is dropped already
	}
	if want := c.sum.next(); shard.Step != c.number || shard.Index != want {
		panic(fmt.Sprintf("worker: %v added where shard %d of step %d was due", shard, want, c.number))
	}
	c.sum.pull(s.vec.grads)
	switch {
	case nan && c.sum.res != nil:
		c.sum.err = c.sum.res.poison(s.params)
	case nan:
		s.params[0].grad[0] = float32(math.NaN())
	}
	c.sum.add(s.params, loss)
}

// AllReduce sums the step over all workers: the gradients hold the sum over all shards on return. After an
// error the step is dropped, or, with ErrSkipped, done: call Next.
func (s *Session) AllReduce(ctx context.Context) error {
	c := s.cur
	if c == nil {
		panic("worker: AllReduce without a step: call Next first")
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if c.sum != nil && c.sum.err != nil {
		err := fmt.Errorf("worker: step %d: %w", c.number, c.sum.err)
		s.fail(err)
		return err
	}
	var origin string
	if c.lag {
		s.vec.deliver(s.params)
	} else {
		s.strike(PointReduce, c.number, c.gen.rank)
		if !s.pos.begin(c.gen) {
			return collective.ErrGenerationChanged
		}
		from := time.Now()
		err := s.reduce(c)
		s.counters.wait.Add(int64(time.Since(from)))
		if err != nil {
			s.pos.settle(nil)
			if fatal := s.mend(c.gen, err); fatal != nil {
				s.fail(fatal)
			}
			return fmt.Errorf("worker: step %d: %w", c.number, err)
		}
		c.reduced = true
		infinite, err := s.deliver(c)
		if err != nil {
			s.fail(err)
			return err
		}
		if infinite {
			origin = s.origin(c)
		}
		s.strike(PointReduced, c.number, c.gen.rank)
	}
	if s.vec.vote() {
		s.stop = c.number
	}
	if s.vec.infinite {
		return s.notFinite(ctx, c, origin)
	}
	if c.sum != nil && c.sum.res != nil {
		return nil // they never left
	}
	if err := s.mirror.pushGradients(); err != nil {
		s.fail(err)
		return err
	}
	return nil
}

// Commit says that the update is done.
func (s *Session) Commit(ctx context.Context) {
	c := s.cur
	if c == nil {
		panic("worker: Commit without a step: call Next first")
	}
	s.strike(PointApplied, c.number, c.gen.rank)
	s.vec.committed = c.number
	s.mirror.changed()
	s.loss = s.vec.loss(s.plan.Shards)
	s.cur = nil
	s.pos.settle(func(f *elastic.Fence) {
		f.Applied, f.HoldsState, f.HoldsReduced, f.Term = c.number, true, true, s.term(c.gen.number())
		if c.lag {
			f.Term = s.term(c.gen.view.ResumeTerm)
		}
	})
	s.counters.steps.Add(1)
	s.mail.committed(c.gen.number(), c.number, s.loss, time.Now())
	if s.progress != nil {
		s.progress(c.number, s.loss)
	}
	if !c.lag && s.due(c.number) {
		s.save(c.gen, c.number)
	}
}

// Err is why Next was false: nil when the job is done, an *EndedError when it ended otherwise.
func (s *Session) Err() error {
	if o := s.pos.ending(); o != nil {
		return o.err
	}
	return nil
}

// Close leaves the job and frees everything. Next does it when it is false; a program that leaves its loop
// earlier calls it.
func (s *Session) Close() {
	s.closed.Do(func() {
		s.pos.end(1, &EndedError{1, "the program left its training loop"})
		s.cancel(collective.ErrClosed)
		if s.listener != nil {
			_ = s.listener.Close()
		}
		s.wg.Wait()
		if s.cur != nil {
			_ = s.cur.await()
		}
		s.leaveDevice()
		s.cur, s.vec.reduced = nil, nil
		s.vec.release()
	})
}
