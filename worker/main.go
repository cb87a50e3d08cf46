package worker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"time"

	"github.com/farandole-ml/farandole/elastic"
)

// Exit codes.
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
)

// progressEvery is how often a program that trains alone says how far it is.
const progressEvery = time.Second

// Main runs t and exits the process. Outside a job (no FARANDOLE_COORDINATOR in the environment) it
// trains alone, with the same arithmetic.
//
// Inside a job, the worker ignores an interrupt, which a terminal sends to all processes: the coordinator decides.
func Main(t Trainer) {
	cfg, err := ConfigFromEnv()
	if err == nil {
		if cfg.Coordinator != "" {
			signal.Ignore(os.Interrupt)
		}
		err = Run(context.Background(), cfg, t)
	}
	code := ExitCode(err)
	if code != exitDone {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(code)
}

// ExitCode is the process exit code for what Run or Session.Err gave.
func ExitCode(err error) int {
	var ended *EndedError
	var usage *UsageError
	switch {
	case err == nil:
		return exitDone
	case errors.As(err, &ended):
		return ended.Code
	case errors.As(err, &usage):
		return exitUsage
	}
	return exitFailed
}

// Run trains t as cfg says, until the job ends. It blocks; all that it started has ended when it returns.
func Run(ctx context.Context, cfg Config, t Trainer) error {
	s, err := Join(ctx, cfg)
	if err != nil {
		return err
	}
	return s.run(ctx, t)
}

func (s *Session) run(ctx context.Context, t Trainer) error {
	defer s.Close()
	if err := t.Setup(ctx, s); err != nil {
		s.mistake = err // told to the coordinator, like every failure of the program
	}
	if f, ok := t.(Finisher); ok {
		s.finish = func(ctx context.Context) error { return f.Finish(ctx, s) }
	}
	if s.cfg.Coordinator == "" {
		s.progress = s.lines()
	}
	for s.Next(ctx) {
		if err := s.step(ctx, t); err != nil {
			s.fail(err)
		}
	}
	return s.Err()
}

// step does one step of t. Only the program's own errors come back.
func (s *Session) step(ctx context.Context, t Trainer) error {
	c := s.cur
	for _, shard := range s.Shards() {
		if c.gen.ctx.Err() != nil {
			return nil //nolint:nilerr // the step is dropped: Next knows
		}
		loss, err := t.Gradients(c.gen.ctx, shard)
		if c.gen.ctx.Err() != nil {
			return nil //nolint:nilerr // dropped, and the error with it
		}
		if err != nil {
			return fmt.Errorf("%v: %w", shard, err)
		}
		s.Add(shard, loss)
	}
	if err := s.AllReduce(ctx); err != nil {
		return nil //nolint:nilerr // Next knows
	}
	if err := t.Apply(ctx, c.number); err != nil {
		return fmt.Errorf("step %d: %w", c.number, err)
	}
	s.Commit(ctx)
	return nil
}

// lines prints progress now and then.
func (s *Session) lines() func(elastic.Step, float64) {
	var last time.Time
	var from elastic.Step
	return func(at elastic.Step, loss float64) {
		now := time.Now()
		if last.IsZero() {
			last, from = now, at-1
		}
		if since := now.Sub(last); since >= progressEvery {
			rate, unit := float64(at-from)/since.Seconds(), "steps"
			if n := s.plan.TokensPerStep; n > 0 {
				rate, unit = rate*float64(n), "tokens"
			} else if n := s.plan.SamplesPerStep; n > 0 {
				rate, unit = rate*float64(n), "samples"
			}
			_, _ = fmt.Fprintf(s.stderr, "step %d/%d loss %.6f %.0f %s/s\n", at, s.plan.Steps, loss, rate, unit)
			last, from = now, at
		}
	}
}
