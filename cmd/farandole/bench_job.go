package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	pb "github.com/farandole-ml/farandole/coordinator/coordinatorpb"
)

// Limits of a benchmark that runs as a job.
const (
	benchJobStart    = 60 * time.Second // for the agents to start all ranks
	benchJobEnd      = 15 * time.Second // for a cancelled job to end
	benchJobLiveness = 10 * time.Second // a rank that crashes is seen at once; one that is silent for so long is lost, and so is a cell without progress for 30 times that
	benchJobSettle   = 200 * time.Millisecond
)

// benchJob is a benchmark on the hosts of a coordinator's agents.
type benchJob struct {
	client *client
	job    string
	ranks  int
	warn   func(format string, args ...any)

	formed bool
	next   int // the cell whose timing comes next
}

// benchByJob submits the task as a job of the coordinator at addr, and hands on each cell's timing.
func benchByJob(ctx context.Context, addr, program string, task *benchTask, warn func(string, ...any), each func(benchTiming) error) (err error) {
	arg, err := task.pack()
	if err != nil {
		return err
	}
	if program == "" {
		if program, err = os.Executable(); err != nil {
			return fmt.Errorf("where is this program? name it with --program: %w", err)
		}
	}
	c, err := dial(addr)
	if err != nil {
		return err
	}
	defer c.Close()
	n := int32(task.Ranks)
	b := &benchJob{client: c, ranks: task.Ranks, warn: warn}
	b.job, err = submitJob(ctx, c, &pb.JobSpec{
		Name: "bench", Command: []string{program, "bench", "worker", arg}, Dir: "/", Min: n, Max: n, Start: n,
		SettleNanos: int64(benchJobSettle), LivenessNanos: int64(benchJobLiveness), Reduce: "tree", Wire: "f32", Threads: 1, Device: "cpu", NanPolicy: "stop",
	})
	if err != nil {
		return err
	}
	ended, err := b.follow(ctx, each)
	if ended != nil {
		return b.verdict(ended, len(task.Cells), err)
	}
	// Nothing of it goes on running. ctx may be over, which is why it is to end.
	if cerr := b.cancel(context.WithoutCancel(ctx)); cerr != nil {
		warn("%v", cerr)
	}
	return err
}

// follow reads the job's events until its end. It cancels the job when a rank is lost, which a measurement does not survive.
func (b *benchJob) follow(ctx context.Context, each func(benchTiming) error) (ended *pb.JobEnded, err error) {
	wctx, cancel := context.WithCancel(ctx)
	defer cancel()
	events, watched := make(chan *pb.JobEvent, eventQueue), make(chan error, 1)
	go func() {
		w := &watcher{client: b.client, job: b.job, logs: true, silence: watchSilence, giveUp: watchGiveUp}
		watched <- w.run(wctx, events)
		close(events)
	}()
	defer func() { // the watcher ends with wctx; it may be about to hand on an event
		cancel()
		for range events { //nolint:revive // drained
		}
	}()
	late := time.NewTimer(benchJobStart)
	defer late.Stop()
	for {
		select {
		case e, ok := <-events:
			if !ok {
				return nil, rpcOrSame(b.client.addr, <-watched)
			}
			if ended = e.GetEnded(); ended != nil {
				return ended, nil
			}
			if err := b.event(e, each); err != nil {
				return nil, err
			}
		case <-late.C:
			if !b.formed {
				return nil, fmt.Errorf("the agents of %s did not start %s within %s: they offer too few slots, or %s",
					b.client.addr, count(int64(b.ranks), "rank"), benchJobStart, "another job has them (`farandole jobs`)")
			}
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

func (b *benchJob) event(e *pb.JobEvent, each func(benchTiming) error) error {
	switch {
	case e.GetView() != nil:
		b.formed = true
	case e.GetChange() != nil:
		return b.change(e.GetChange())
	case e.GetLogs() != nil:
		for _, line := range e.GetLogs().Lines {
			if err := b.line(line, each); err != nil {
				return err
			}
		}
	}
	return nil
}

func (b *benchJob) change(c *pb.MemberChange) error {
	switch c.Kind {
	case "wait":
		if !b.formed {
			b.warn("the job waits: %s", c.Reason)
		}
	case "loss":
		who := "a rank that had not joined yet"
		if c.Rank >= 0 {
			who = fmt.Sprintf("rank %d", c.Rank)
		}
		return fmt.Errorf("%s on host %s was lost: %s", who, c.Host, c.Reason)
	}
	return nil
}

// line takes a timing out of the job's log; other lines are the ranks' own words.
func (b *benchJob) line(line string, each func(benchTiming) error) error {
	text, ok := strings.CutPrefix(line, benchLinePrefix)
	if !ok {
		b.warn("%s", line)
		return nil
	}
	var t benchTiming
	if err := json.Unmarshal([]byte(text), &t); err != nil {
		return fmt.Errorf("a timing that cannot be read: %w", err)
	}
	if t.Cell != b.next {
		return fmt.Errorf("the timing of measurement %d is missing: the connection to the coordinator was interrupted; run it again", b.next)
	}
	b.next++
	return each(t)
}

// verdict is the job's end as an error.
func (b *benchJob) verdict(e *pb.JobEnded, cells int, err error) error {
	switch {
	case err != nil:
		return err
	case e.Status == "done" && b.next < cells:
		return errors.New("the job ended, but its last timings did not come: run it again")
	case e.Status == "done":
		return nil
	}
	if f := e.Failure; f != nil && f.Member != "" {
		who := fmt.Sprintf("rank %d", f.Rank)
		if f.Rank < 0 {
			who = "a rank that had not joined yet"
		}
		last := ""
		if len(f.Tail) > 0 {
			last = ": " + strings.TrimSpace(f.Tail[len(f.Tail)-1])
		}
		if f.Signal != "" {
			return fmt.Errorf("%s on host %s ended by the signal %s%s", who, f.Host, f.Signal, last)
		}
	}
	return fmt.Errorf("job %s %s: %s", b.job, pastTense(e.Status), e.Reason)
}

// cancel ends the job and waits until nothing of it runs.
func (b *benchJob) cancel(ctx context.Context) error {
	ctx, stop := context.WithTimeout(ctx, benchJobEnd)
	defer stop()
	if _, err := b.client.Cancel(ctx, &pb.CancelRequest{Job: b.job}); err != nil {
		return fmt.Errorf("job %s could not be cancelled: %w: `farandole cancel %s` does it", b.job, rpcOrSame(b.client.addr, err), b.job)
	}
	events := make(chan *pb.JobEvent, eventQueue)
	done := make(chan error, 1)
	go func() {
		defer close(events)
		done <- (&watcher{client: b.client, job: b.job, silence: watchSilence, giveUp: benchJobEnd}).run(ctx, events)
	}()
	for range events { //nolint:revive // until the end of the job
	}
	return <-done
}
