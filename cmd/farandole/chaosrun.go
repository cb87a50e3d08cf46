package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/farandole-ml/farandole/coordinator/coordinatorpb"
)

// How long an action waits for what will be there in a moment.
const (
	chaosRetry     = 10 * time.Second // the coordinator is just coming back
	chaosBetween   = 3 * time.Second  // the job is between two views
	chaosRetryStep = 50 * time.Millisecond
	chaosReport    = 10 * time.Millisecond // how soon a committed step is known here
)

// chaosResult is what became of one action.
type chaosResult struct {
	Action   string `json:"action"`
	Injected bool   `json:"injected"`
	Step     int64  `json:"step"` // committed step at which it fired, or the last one seen
	Member   string `json:"member,omitempty"`
	Reason   string `json:"reason,omitempty"` // why it was not injected
}

// injector carries out a script, one action after the other.
type injector struct {
	client          pb.CoordinatorClient
	job             string
	killCoordinator func() error

	actions []chaosAction
	next    int
	queue   chan firedAction
	results chan chaosResult
	waiting int // fired, result not read yet
	done    []chaosResult
}

type firedAction struct {
	chaosAction
	at int64
}

func newInjector(c pb.CoordinatorClient, job string, actions []chaosAction, killCoordinator func() error) *injector {
	return &injector{
		client: c, job: job, actions: actions, killCoordinator: killCoordinator,
		queue: make(chan firedAction, len(actions)), results: make(chan chaosResult, len(actions)),
	}
}

// run carries out what fire queues until ctx ends.
func (in *injector) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case a := <-in.queue:
			in.results <- in.do(ctx, a)
		}
	}
}

// fire queues every action that is due at a committed step. It, collect and finish belong to one goroutine.
func (in *injector) fire(step int64) {
	for in.next < len(in.actions) && in.actions[in.next].Step <= step {
		in.queue <- firedAction{in.actions[in.next], step}
		in.next++
		in.waiting++
	}
}

func (in *injector) collect(r chaosResult) {
	in.waiting--
	in.done = append(in.done, r)
}

// finish gives all results; what was not reached, or not over, by the job's end at step is not injected.
// It is called after run has returned.
func (in *injector) finish(step int64) []chaosResult {
	for {
		select {
		case r := <-in.results:
			in.collect(r)
			continue
		default:
		}
		break
	}
	for {
		select {
		case a := <-in.queue:
			in.done = append(in.done, chaosResult{Action: a.String(), Step: step, Reason: "the job ended first"})
			continue
		default:
		}
		break
	}
	for ; in.next < len(in.actions); in.next++ {
		in.done = append(in.done, chaosResult{Action: in.actions[in.next].String(), Step: step,
			Reason: fmt.Sprintf("not reached: the job ended at step %d", step)})
	}
	return in.done
}

func (in *injector) do(ctx context.Context, a firedAction) chaosResult {
	r := chaosResult{Action: a.String(), Step: a.at}
	ctx, cancel := context.WithTimeout(ctx, chaosRetry)
	defer cancel()
	began := time.Now()
	limits := map[codes.Code]time.Duration{codes.Unavailable: chaosRetry, codes.FailedPrecondition: chaosBetween}
	for {
		member, err := in.try(ctx, a)
		if err == nil {
			r.Injected, r.Member = true, member
			return r
		}
		wait := limits[status.Code(err)]
		if time.Since(began) >= wait {
			r.Reason = status.Convert(err).Message()
			if errors.Is(ctx.Err(), context.Canceled) {
				r.Reason = "the job ended first"
			}
			return r
		}
		select {
		case <-time.After(chaosRetryStep):
		case <-ctx.Done():
			r.Reason = "the coordinator did not answer: " + status.Convert(err).Message()
			return r
		}
	}
}

func (in *injector) try(ctx context.Context, a firedAction) (member string, err error) {
	inject := func(signal string, cont time.Duration) (string, error) {
		rep, err := in.client.Inject(ctx, &pb.InjectRequest{Job: in.job, Rank: int32(a.Rank), Signal: signal, ContAfterNanos: int64(cont)})
		return rep.GetMember(), err
	}
	switch a.Kind {
	case chaosKill:
		return inject("KILL", 0)
	case chaosStop:
		return inject("STOP", a.For)
	case chaosJoin:
		_, err := in.client.Scale(ctx, &pb.ScaleRequest{Job: in.job, Add: int32(a.Count)})
		return "", err
	default:
		return "", in.killCoordinator()
	}
}
