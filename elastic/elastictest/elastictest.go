// Package elastictest runs whole jobs in virtual time, on the real elastic.State and a model of everything around
// it: workers that hold a state, a data plane whose steps end at slightly different times on different
// members, control streams that delay, break and reorder, a coordinator that crashes between any two actions,
// and checkpoints. Faults are drawn from a seed.
//
// A worker's weights are a hash chain over the updates that it applied, so a step that is lost, repeated, or
// synchronised from the wrong place shows up as different bits, as it would in a real job.
package elastictest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/farandole-ml/farandole/elastic"
)

// Options narrow what a seed may draw. The zero value draws everything.
type Options struct {
	// Faults is which faults may happen; nil means all. Without any, an empty non-nil slice, the job runs undisturbed.
	Faults []Fault

	// Inexact makes a step's result depend on its generation, as reduction around the ring does. Then states of a step
	// that another generation redid are not the same, and must not meet in one view.
	Inexact bool

	// Mutant is a planted bug. The zero value is none.
	Mutant Mutant

	// Trusting turns off the checks of single actions. What is left is what a user could see: the final weights, the
	// ledger, one view per generation, and that the job ends.
	Trusting bool

	// Log gets a line per event of interest; nil means none.
	Log func(line string)
}

// Mutant plants a bug around the state machine, which itself stays as it is.
type Mutant struct {
	// Event gives the event that the state machine gets to see instead. Nil leaves all as they are.
	Event func(e elastic.Event) elastic.Event
	// Actions gives those that are carried out instead. Nil leaves them as they are.
	Actions func(actions []elastic.Action) []elastic.Action
}

// Report tells what a run was like.
type Report struct {
	Seed        uint64
	Workers     int // at the start
	Steps       elastic.Step
	Faults      map[Fault]int
	Generations elastic.Generation
	First       int // world size of the first view
	Views       int
	Syncs       map[elastic.SyncKind]int
	Redone      int // steps that a member applied after a rollback
	Events      int
	Elapsed     time.Duration // virtual
	Ended       elastic.Ended
	Ledger      []elastic.Term
}

// ErrInvariant is wrapped by every failure of a run.
var ErrInvariant = errors.New("invariant broken")

// Run runs the job of a seed to its end. The same seed and options give the same run. The error names the seed, the virtual
// time and the invariant that broke.
func Run(seed uint64, o Options) (Report, error) {
	s := newSim(seed, o)
	s.start()
	for s.err == nil && !s.over {
		if !s.next() {
			s.fail("nothing is left to happen and the job has not ended")
		}
		if s.rep.Events++; s.now > s.quiet+s.bound {
			s.fail("the job did not end within %s after the last fault: %s", s.bound, s.where())
		}
	}
	s.rep.Elapsed = s.now
	if s.err == nil {
		s.finalChecks()
	}
	if s.err != nil {
		return s.rep, fmt.Errorf("seed %d at %s: %w: %w", seed, s.now, ErrInvariant, s.err)
	}
	return s.rep, nil
}

// sim is one run.
type sim struct {
	o       Options
	rng     *rand.Rand
	now     time.Duration
	queue   queue
	over    bool
	err     error
	rep     Report
	quiet   time.Duration // from here on there are no more faults
	bound   time.Duration // the job must end so long after that
	policy  elastic.Policy
	limits  elastic.Limits
	shards  int
	steps   elastic.Step
	every   elastic.Step // steps between checkpoints; 0: none
	compute time.Duration
	delay   time.Duration // longest of a message
	sync    time.Duration // longest state transfer
	forget  float64       // chance that the reduced gradient is overwritten at once
	legacy  bool          // workers do not tell Fence.View and Fence.Term

	coord   *coord
	workers []*worker
	byID    map[elastic.MemberID]*worker
	groups  map[elastic.Generation]*ring
	saved   []checkpoint
	check   checker
}

func newSim(seed uint64, o Options) *sim {
	r := rand.New(rand.NewPCG(seed, 0x66617261))
	s := &sim{
		o: o, rng: r, byID: map[elastic.MemberID]*worker{}, groups: map[elastic.Generation]*ring{},
		shards: 1 << (2 + r.IntN(3)), steps: elastic.Step(5 + r.IntN(36)),
		compute: time.Duration(20+r.IntN(180)) * time.Millisecond,
		delay:   time.Duration(1+r.IntN(40)) * time.Millisecond,
		sync:    time.Duration(20+r.IntN(1500)) * time.Millisecond,
		forget:  r.Float64(),
	}
	n := 1 + r.IntN(min(6, s.shards))
	s.policy = elastic.Policy{Job: "sim", Min: 1 + r.IntN(n), Start: n, Liveness: time.Second,
		Settle: time.Duration(100+r.IntN(900)) * time.Millisecond}
	if r.IntN(4) == 0 {
		s.policy.Max = n
	}
	if r.IntN(3) > 0 {
		s.every = elastic.Step(1 + r.IntN(8))
	}
	s.legacy = !o.Inexact && r.IntN(4) == 0
	s.limits = elastic.LimitsOf(s.policy.Liveness)
	s.bound = 150*time.Second + 3*time.Duration(s.steps)*(s.compute+6*s.delay)
	s.rep = Report{Seed: seed, Workers: n, Steps: s.steps, Faults: map[Fault]int{}, Syncs: map[elastic.SyncKind]int{}}
	s.check.s = s
	s.coord = &coord{s: s}
	return s
}

func (s *sim) start() {
	s.coord.up()
	for range s.rep.Workers {
		s.spawn("f32", min(startup, s.policy.Settle/2)) // so that undisturbed the first view has them all
	}
	s.plan()
	s.after(s.quiet-s.now, s.keepAlive)
}

// finalChecks holds the promise: the weights are those of an undisturbed run.
func (s *sim) finalChecks() {
	s.rep.Ended = *s.coord.ended
	s.rep.Ledger = s.coord.durable.Ledger
	if s.rep.Ended.Code == 1 && s.allLost() {
		return
	}
	if s.rep.Ended.Code != 0 {
		s.fail("the job ended with code %d: %s", s.rep.Ended.Code, s.rep.Ended.Reason)
		return
	}
	if err := elastic.VerifyLedger(s.rep.Ledger, s.steps); err != nil {
		s.fail("%v", err)
		return
	}
	want := initial
	for n := elastic.Step(1); n <= s.steps; n++ {
		want = s.update(want, n, 0)
	}
	if one := s.finisher(); s.o.Inexact { // there is no one result, but all must have the same
		want = s.byID[one].weights
	}
	for _, m := range s.coord.durable.View.Roster {
		if w := s.byID[m.ID]; !w.dead && w.finished && (w.weights != want || w.applied != s.steps) {
			s.fail("%s ended at step %d with weights %x, want %x", w.id, w.applied, w.weights, want)
		}
	}
}

// allLost says whether nobody is left who could bring a state.
func (s *sim) allLost() bool {
	for _, w := range s.workers {
		if !w.dead && (w.valid || w.fence().Checkpoint > 0) && w.member.Class == "f32" {
			return false
		}
	}
	return true
}

// finisher is a member of the last view that finished.
func (s *sim) finisher() elastic.MemberID {
	for _, m := range s.coord.durable.View.Roster {
		if s.byID[m.ID].finished {
			return m.ID
		}
	}
	s.fail("the job is done but nobody finished")
	return s.coord.durable.View.Roster[0].ID
}

const initial = uint64(0x5eed)

// update is one optimizer step on the model weights.
func (s *sim) update(w uint64, n elastic.Step, gen elastic.Generation) uint64 {
	x := w ^ uint64(n)*0x9e3779b97f4a7c15
	if s.o.Inexact {
		x ^= uint64(gen) << 40
	}
	x ^= x >> 30
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 27
	x *= 0x94d049bb133111eb
	return x ^ x>>31
}

func (s *sim) fail(format string, args ...any) {
	if s.err == nil {
		s.err = fmt.Errorf(format, args...)
	}
}

func (s *sim) logf(format string, args ...any) {
	if s.o.Log != nil {
		s.o.Log(fmt.Sprintf("%10s  ", s.now) + fmt.Sprintf(format, args...))
	}
}

// where describes a job that does not end.
func (s *sim) where() string {
	text := "the coordinator is down"
	if st := s.coord.state; st != nil {
		text = fmt.Sprintf("%s, generation %d, step %d", st.Phase(), st.Generation(), st.Applied())
	}
	for _, w := range s.workers {
		if !w.dead {
			text += fmt.Sprintf("; %s applied %d, view %d, fenced %d, state %v", w.id, w.applied, w.viewGen, w.fenced, w.valid)
		}
	}
	return text
}
