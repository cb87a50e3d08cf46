package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	pb "github.com/farandole-ml/farandole/coordinator/coordinatorpb"
)

// jobRun is one `run`, from the checked command line to its exit code. The goroutine of run owns it.
type jobRun struct {
	opts     *runOptions
	plan     *runPlan
	con      *console
	stdout   io.Writer
	signals  *signals
	restarts chan coordinatorRestart
	cluster  *cluster // nil with --coordinator

	client *client
	render *renderer
	record *recorder
	curve  curve
	chaos  *injector

	stopping int       // the exit code that a signal or the time limit asked for; 0 while nothing did
	stopAt   time.Time // when it was asked for
	grace    <-chan time.Time
}

// eventQueue is how many events wait for the printer; then the coordinator's stream waits.
const eventQueue = 256

func (r *jobRun) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	addr, stop, failed, err := r.startInterruptible(ctx)
	if err != nil {
		return err
	}
	defer stop()
	if r.client, err = dial(addr); err != nil {
		return err
	}
	defer r.client.Close()
	job, err := submitJob(ctx, r.client, r.plan.spec)
	if err != nil {
		return err
	}
	r.con.say(colorBold, "%s", r.runningText(job, addr))
	r.render, r.record = newRenderer(r.con, time.Now), newRecorder(job)
	r.render.tee, r.render.ownCoordinator = r.plan.tee, r.cluster != nil
	kill := func() error { return errors.New("the coordinator is not ours") }
	if r.cluster != nil {
		kill = r.cluster.kill
	}
	r.chaos = newInjector(r.client, job, r.plan.chaos, kill)

	wctx, wcancel := context.WithCancel(ctx)
	events, watched := make(chan *pb.JobEvent, eventQueue), make(chan error, 1)
	var wg sync.WaitGroup
	wg.Go(func() {
		w := &watcher{client: r.client, job: job, logs: true, silence: watchSilence, giveUp: watchGiveUp}
		watched <- w.run(wctx, events)
	})
	wg.Go(func() { r.chaos.run(wctx) })
	lost := r.loop(ctx, events, watched, failed)
	wcancel()
	wg.Wait()
	r.con.progress("")
	stop() // before anything is said: what is said is true of a machine where nothing runs any more
	return r.finish(lost)
}

// startInterruptible is start, which a signal ends.
func (r *jobRun) startInterruptible(ctx context.Context) (addr string, stop func(), failed <-chan error, err error) {
	ctx, cancel := context.WithCancel(ctx)
	type started struct {
		addr   string
		stop   func()
		failed <-chan error
		err    error
	}
	done := make(chan started, 1)
	go func() {
		addr, stop, failed, err := r.start(ctx)
		done <- started{addr, stop, failed, err}
	}()
	finish := func(s started) (string, func(), <-chan error, error) {
		if s.err != nil {
			cancel()
			return "", nil, nil, s.err
		}
		return s.addr, sync.OnceFunc(func() { s.stop(); cancel() }), s.failed, nil
	}
	select {
	case s := <-done:
		return finish(s)
	case sig := <-r.signals.c:
		cancel()
		if s := <-done; s.err == nil {
			s.stop()
		}
		return "", nil, nil, &exitError{signalCode(sig), fmt.Errorf("%s before the job began", sig)}
	}
}

// loop handles what happens until the job's end is known (nil) or cannot be known any more.
func (r *jobRun) loop(ctx context.Context, events <-chan *pb.JobEvent, watched, failed <-chan error) error {
	var limit <-chan time.Time
	if r.opts.timeLimit > 0 {
		t := time.NewTimer(r.opts.timeLimit)
		defer t.Stop()
		limit = t.C
	}
	for {
		select {
		case e := <-events:
			if r.event(e); e.GetEnded() != nil {
				return nil
			}
		case err := <-watched:
			// The last events may still be queued.
			for {
				select {
				case e := <-events:
					if r.event(e); e.GetEnded() != nil {
						return nil
					}
					continue
				default:
				}
				break
			}
			return rpcOrSame(r.client.addr, err)
		case res := <-r.chaos.results:
			r.chaosDone(res)
		case c := <-r.restarts:
			r.coordinatorBack(c)
		case err := <-failed:
			return err
		case <-limit:
			r.con.warn("the time limit of %s is over: cancelling the job", r.opts.timeLimit)
			r.cancel(ctx, exitTimeLimit, false)
		case sig := <-r.signals.c:
			if r.stopping == 0 {
				r.signal(ctx, sig)
			} else if sig == os.Interrupt && time.Since(r.stopAt) >= signalEcho {
				return fmt.Errorf("%w: ended by a second Ctrl-C", errNoEnd)
			}
		case <-r.grace:
			return fmt.Errorf("%w: it did not end within the grace period of %s", errNoEnd, r.opts.grace)
		}
	}
}

// signalEcho is how soon after the first a signal is the same one once more: timeout(1) signals a process and then its group.
// SIGTERM is never a reason to hurry: schedulers send it again and again, and a checkpoint takes its time.
const signalEcho = 100 * time.Millisecond

func signalCode(sig os.Signal) int {
	if sig == os.Interrupt {
		return exitInterrupted
	}
	return exitPreempted
}

func (r *jobRun) signal(ctx context.Context, sig os.Signal) {
	if sig == os.Interrupt {
		r.con.warn("interrupted: cancelling the job; press Ctrl-C again to end it at once")
		r.cancel(ctx, exitInterrupted, false)
		return
	}
	r.con.warn("terminated: asking the job for a checkpoint, for at most %s", r.opts.grace)
	r.cancel(ctx, exitPreempted, true)
}

// cancel asks the job to end and gives it the grace period.
func (r *jobRun) cancel(ctx context.Context, code int, save bool) {
	if r.stopping != 0 {
		return
	}
	r.stopping, r.stopAt = code, time.Now()
	r.grace = time.After(r.opts.grace)
	job := r.record.job
	go func() {
		// A coordinator that is just restarting is asked again; the grace period bounds it all.
		ctx, cancel := context.WithTimeout(ctx, r.opts.grace)
		defer cancel()
		for ctx.Err() == nil {
			if _, err := r.client.Cancel(ctx, &pb.CancelRequest{Job: job, Save: save}); err == nil {
				return
			}
			select {
			case <-time.After(chaosRetryStep):
			case <-ctx.Done():
			}
		}
	}()
}

func (r *jobRun) event(e *pb.JobEvent) {
	r.record.event(e)
	r.curve.event(e)
	r.render.event(e)
	if p := e.GetProgress(); p != nil {
		r.chaos.fire(p.Step)
	}
}

func (r *jobRun) chaosDone(res chaosResult) {
	r.chaos.collect(res)
	if res.Injected {
		r.con.say(colorYellow, "chaos at step %d: %s", res.Step, res.Action)
		return
	}
	r.con.warn("chaos: %s was not injected: %s", res.Action, res.Reason)
}

func (r *jobRun) coordinatorBack(c coordinatorRestart) {
	r.record.restarted(c)
	r.con.say(colorYellow, "the coordinator ended (%s) and serves again after %s", c.how, millis(c.after.Seconds()*1e3))
}

// finish says how it ended, writes the summary, and gives the exit code.
func (r *jobRun) finish(lost error) error {
	reached := int64(0)
	if r.record.last != nil {
		reached = r.record.last.Step
	}
	if r.record.ended != nil {
		reached = r.record.ended.Steps
	}
	reported := len(r.chaos.done)
	results := r.chaos.finish(reached)
	for _, c := range results[reported:] {
		if !c.Injected {
			r.con.warn("chaos: %s was not injected: %s", c.Action, c.Reason)
		}
	}
	out := outcome(r.record.ended, lost, r.stopping)
	s := r.record.summary(out.code, out.status, out.reason, results)
	r.con.block(failureBlock(s, r.opts))
	if s.ExitCode == exitDone {
		r.con.say(colorGreen, "%s", doneLine(s))
	}
	return r.write(s)
}

// write puts the summary and the curves where they were asked for.
func (r *jobRun) write(s *summary) error {
	b, err := s.encode()
	if err != nil {
		return failf("%v", err)
	}
	whole := true
	written := func(what, path string, err error) {
		if err != nil {
			r.con.warn("the %s could not be written to %s: %v", what, path, causeOf(err))
			whole = false
		}
	}
	if r.opts.summary != "" {
		written("summary", r.opts.summary, writeFileAtomic(r.opts.summary, b))
	}
	for _, path := range r.opts.curves {
		written("curve", path, r.curve.write(path))
	}
	if !whole && s.ExitCode == exitDone {
		return &exitError{exitFailed, nil}
	}
	if r.opts.output == "json" {
		if _, err := r.stdout.Write(b); err != nil {
			return failf("cannot write the summary to standard output: %v", err)
		}
	}
	if s.ExitCode == exitDone {
		return nil
	}
	return &exitError{s.ExitCode, nil}
}

// sweep is the last thing that a local run does: whatever is left of it ends now.
func (r *jobRun) sweep() {
	if n := sweepOrphans(); n > 0 && r.opts.verbose {
		r.con.say("", "ended %s that the workers had left behind", count(int64(n), "process"))
	}
}

func rpcOrSame(addr string, err error) error {
	if errors.Is(err, errWatchLost) || errors.Is(err, context.Canceled) {
		return err
	}
	return rpcError(addr, err)
}
