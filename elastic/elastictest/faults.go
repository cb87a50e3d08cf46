package elastictest

import (
	"slices"
	"time"
)

// Fault is something that goes wrong.
type Fault string

// The faults.
const (
	Kill      Fault = "kill"     // a worker dies; mostly another one is started
	Freeze    Fault = "freeze"   // a worker stops for a while
	Hang      Fault = "hang"     // a worker's program hangs for a while; its heartbeats go on
	Isolate   Fault = "isolate"  // a worker's host is cut off for a while
	CutStream Fault = "cut"      // a control stream breaks
	BreakRing Fault = "break"    // a data connection breaks
	Flap      Fault = "flap"     // a data connection breaks again and again
	Join      Fault = "join"     // a new worker comes
	Drain     Fault = "drain"    // a worker leaves in good order
	Crash     Fault = "crash"    // the coordinator crashes and comes back
	Sleep     Fault = "sleep"    // the coordinator stops for a while
	Stranger  Fault = "stranger" // a worker of another numerics class comes
	KillAll   Fault = "kill all" // all workers die at once; others are started
)

// AllFaults lists them all.
var AllFaults = []Fault{Kill, Freeze, Hang, Isolate, CutStream, BreakRing, Flap, Join, Drain, Crash, Sleep, Stranger, KillAll}

// startup is how long a worker takes at most to start.
const startup = 300 * time.Millisecond

// plan draws the job's faults. Half of them come in bursts: soon after another, so that they meet the protocol at work.
func (s *sim) plan() {
	faults := s.o.Faults
	if faults == nil {
		faults = AllFaults
	}
	span := time.Duration(s.steps)*(s.compute+2*s.delay) + 500*time.Millisecond
	at := time.Duration(0)
	for i := range s.rng.IntN(9) {
		if len(faults) == 0 {
			break
		}
		if i == 0 || s.chance(0.5) {
			at = s.upTo(span)
		} else {
			at += s.upTo(s.upTo(1500 * time.Millisecond))
		}
		f := faults[s.rng.IntN(len(faults))]
		if f == KillAll && !s.chance(0.3) {
			f = Kill
			if !slices.Contains(faults, Kill) {
				f = KillAll
			}
		}
		s.after(at, func() { s.strike(f) })
		s.quiet = max(s.quiet, at+12*time.Second)
	}
	s.quiet = max(s.quiet, 5*time.Second)
}

func (s *sim) anyone() *worker {
	var alive []*worker
	for _, w := range s.workers {
		if !w.dead {
			alive = append(alive, w)
		}
	}
	if len(alive) == 0 {
		return s.spawn("f32", startup)
	}
	return alive[s.rng.IntN(len(alive))]
}

func (s *sim) strike(f Fault) {
	if s.over {
		return
	}
	s.rep.Faults[f]++
	s.check.causes++
	s.logf("FAULT %s", f)
	w := s.anyone()
	switch f {
	case Kill:
		w.kill()
		s.replace(0.8)
	case KillAll:
		for _, w := range s.workers {
			if !w.dead {
				w.kill()
				s.replace(0.9)
			}
		}
	case Freeze:
		w.freeze(s.between(50*time.Millisecond, s.between(100*time.Millisecond, 8*time.Second)))
	case Hang:
		w.hang(s.between(50*time.Millisecond, s.between(100*time.Millisecond, 10*time.Second)))
	case Isolate:
		w.isolate(s.between(50*time.Millisecond, s.between(100*time.Millisecond, 8*time.Second)))
	case CutStream:
		if st := w.stream; st != nil {
			s.cut(st)
		}
	case BreakRing:
		s.breakLink(w)
	case Flap:
		for i := range 3 + s.rng.IntN(8) {
			s.after(time.Duration(i)*s.between(50*time.Millisecond, 500*time.Millisecond), func() { s.breakLink(w) })
		}
	case Join:
		for range 1 + s.rng.IntN(3) {
			s.after(s.upTo(time.Second), func() { s.spawn("f32", startup) })
		}
	case Stranger:
		if s.coord.durable.View != nil { // before, the first to come would say what the job's class is
			s.spawn("tf32", startup)
		}
	case Drain:
		w.control(w.depart)
		s.replace(0.8)
	case Crash:
		c := s.coord
		c.downFor = s.between(20*time.Millisecond, s.between(50*time.Millisecond, 5*time.Second))
		if s.chance(0.4) {
			c.crash(c.downFor)
		} else if c.crashIn < 0 {
			c.crashIn = s.rng.IntN(24) // in the middle of the next actions
		}
	case Sleep:
		s.coord.sleep(s.between(100*time.Millisecond, 5*time.Second))
	}
}

func (s *sim) breakLink(w *worker) {
	s.check.causes++
	if g := w.ring; g != nil {
		p := g.workers[s.rng.IntN(len(g.workers))]
		w.data(func() { w.breakRing(g, p, "connection reset") })
	}
}

// replace starts another worker for one that is gone, mostly.
func (s *sim) replace(p float64) {
	if s.chance(p) {
		s.after(s.upTo(3*time.Second), func() { s.spawn("f32", startup) })
	}
}

// keepAlive ends the faults and sees to it that there are workers enough to finish.
func (s *sim) keepAlive() {
	if s.over {
		return
	}
	s.coord.crashIn = -1
	alive := 0
	for _, w := range s.workers {
		if !w.dead && w.member.Class == "f32" {
			alive++
		}
	}
	for ; alive < s.policy.Min; alive++ {
		s.spawn("f32", startup)
	}
	s.after(time.Second, s.keepAlive)
}
