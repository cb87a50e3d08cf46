package elastictest

import (
	"slices"
	"time"

	"github.com/farandole-ml/farandole/elastic"
)

// ring is the group of one generation. A step has two phases, as an all-reduce has: every member gives its
// gradient, then every member gives its reduced segment; each member has the step a little after the last one
// gave its segment. A death in between leaves some with the step and others without.
type ring struct {
	gen     elastic.Generation
	view    *elastic.View
	workers []*worker // by rank
	present int
	synced  []bool
	rounds  map[elastic.Step]*round
}

type round struct{ gave, segments int }

// checkpoint is one step's, complete when every member of its view has written its part.
type checkpoint struct {
	step     elastic.Step
	gen      elastic.Generation
	weights  uint64
	parts    int
	complete bool
}

func (s *sim) newest() elastic.Step {
	for i := len(s.saved) - 1; i >= 0; i-- {
		if s.saved[i].complete {
			return s.saved[i].step
		}
	}
	return 0
}

// save writes a worker's part; it is complete some time later, unless the worker dies before.
func (s *sim) save(w *worker, g *ring, n elastic.Step) {
	value := w.weights
	w.later(s.upTo(300*time.Millisecond), func() {
		for i := range s.saved {
			c := &s.saved[i]
			if c.step == n && c.gen == g.gen {
				if c.weights != value {
					s.fail("%s writes other weights of step %d than its peers", w.id, n)
				}
				c.parts++
				c.complete = c.complete || c.parts == len(g.workers)
				return
			}
			if c.step == n && c.complete && !s.o.Inexact {
				return
			}
		}
		s.saved = append(s.saved, checkpoint{step: n, gen: g.gen, weights: value, parts: 1, complete: len(g.workers) == 1})
	})
}

// enter lets a worker take its place in its new view's ring. Once all are there they synchronise.
func (s *sim) enter(w *worker, v *elastic.View) {
	g := s.groups[v.Generation]
	if g == nil {
		g = &ring{gen: v.Generation, view: v, synced: make([]bool, v.World()), rounds: map[elastic.Step]*round{}}
		for _, m := range v.Roster {
			g.workers = append(g.workers, s.byID[m.ID])
		}
		s.groups[v.Generation] = g
	}
	w.ring, w.broken, w.formed, w.finished = g, false, false, false
	rank := v.RankOf(w.id)
	s.check.entered(w, v, rank)
	g.present++
	if g.present == len(g.workers) {
		for r, p := range g.workers {
			p.later(s.upTo(2*s.delay), func() { p.synchronise(g, r) })
		}
		return
	}
	w.later(s.between(time.Second, 2*time.Second), func() {
		if g.present < len(g.workers) {
			w.breakRing(g, nil, "dial timed out")
		}
	})
}

// alive says whether p can serve g's ring now.
func (p *worker) alive(g *ring) bool {
	return !p.dead && !p.frozen && !p.cutOff() && p.ring == g && !p.broken
}

func (w *worker) synchronise(g *ring, rank int) {
	if w.ring != g || w.broken {
		return
	}
	s, plan := w.s, g.view.Sync[rank]
	s.rep.Syncs[plan.Kind]++
	switch plan.Kind {
	case elastic.SyncNone:
		w.ready(g, rank)
	case elastic.SyncReduced:
		w.later(s.upTo(4*s.delay), func() { w.takeReduced(g, rank, g.workers[plan.From[0]]) })
	case elastic.SyncState:
		w.valid = false
		w.holds = false
		w.later(s.upTo(s.sync), func() { w.takeState(g, rank, plan.From) })
	case elastic.SyncCheckpoint:
		w.valid = false
		w.holds = false
		w.later(s.upTo(s.sync), func() { w.load(g, rank) })
	}
}

func (w *worker) takeReduced(g *ring, rank int, from *worker) {
	if w.ring != g || w.broken {
		return
	}
	if !from.alive(g) || w.cutOff() {
		w.breakRing(g, from, "no reduced gradient")
		return
	}
	if from.applied != g.view.Resume || !from.holds {
		w.s.fail("%s shall send the reduced gradient of step %d but does not have it", from.id, g.view.Resume)
		return
	}
	w.s.check.applies(w, g.view.Resume, from.reduced)
	w.weights = w.s.update(w.weights, g.view.Resume, from.reduced)
	w.applied, w.holds, w.reduced, w.term = g.view.Resume, true, from.reduced, g.view.ResumeTerm
	w.ready(g, rank)
}

func (w *worker) takeState(g *ring, rank int, from []int) {
	if w.ring != g || w.broken {
		return
	}
	var weights uint64
	for i, r := range from {
		src := g.workers[r]
		if !src.alive(g) || w.cutOff() {
			w.breakRing(g, src, "transfer broke")
			return
		}
		if !g.synced[r] {
			w.later(20*time.Millisecond, func() { w.takeState(g, rank, from) })
			return
		}
		if i > 0 && src.weights != weights && !w.s.o.Trusting {
			w.s.fail("%s gets stripes of different states of step %d", w.id, g.view.Resume)
		}
		weights = src.weights
		if src.applied != g.view.Resume && !w.s.o.Trusting {
			w.s.fail("%s sends the state of step %d in a view that resumes at %d", src.id, src.applied, g.view.Resume)
		}
	}
	w.weights, w.valid, w.term = weights, true, g.view.ResumeTerm
	w.move(g.view.Resume)
	w.ready(g, rank)
}

func (w *worker) load(g *ring, rank int) {
	if w.ring != g || w.broken {
		return
	}
	for i := len(w.s.saved) - 1; i >= 0; i-- {
		if c := w.s.saved[i]; c.complete && c.step == g.view.Resume {
			w.weights, w.valid, w.term = c.weights, true, g.view.ResumeTerm
			w.move(c.step)
			w.ready(g, rank)
			return
		}
	}
	w.s.fail("%s shall load a checkpoint of step %d, which there is not", w.id, g.view.Resume)
}

func (w *worker) move(to elastic.Step) {
	w.s.rep.Redone += int(max(0, w.applied-to))
	w.applied = to
}

// ready ends the synchronisation: training goes on, or is over already.
func (w *worker) ready(g *ring, rank int) {
	w.formed = true
	g.synced[rank] = true
	w.s.check.formed(w, g)
	if w.s.o.Trusting {
		w.applied = g.view.Resume // as a runtime does that believes its plan
	}
	w.send(elastic.Formed{ID: w.id, Generation: g.gen})
	w.train(g)
}

// train computes the next step's gradient and gives it to the ring.
func (w *worker) train(g *ring) {
	s := w.s
	if w.applied >= s.steps {
		w.finished = true
		w.send(elastic.Finished{ID: w.id, Generation: g.gen, Step: w.applied})
		return
	}
	n := w.applied + 1
	w.later(s.upTo(s.compute/4), func() {
		if w.ring == g && !slices.Contains(g.synced, false) && s.chance(s.forget) {
			w.holds = false
		}
	})
	w.later(s.between(s.compute/2, s.compute*3/2), func() { w.give(g, n) })
}

// give sends the gradient of step n to the peers.
func (w *worker) give(g *ring, n elastic.Step) {
	if w.ring != g || w.broken || w.resend(func() { w.give(g, n) }) {
		return
	}
	if g.rounds[n] == nil {
		g.rounds[n] = &round{}
	}
	if g.rounds[n].gave++; g.rounds[n].gave < len(g.workers) {
		return
	}
	for _, p := range g.workers {
		p.later(w.s.upTo(w.s.delay), func() { p.segment(g, n) })
	}
}

// resend puts do off while the worker is cut off: what it sends and gets is sent again then.
func (w *worker) resend(do func()) bool {
	if !w.cutOff() {
		return false
	}
	w.later(w.cutUntil-w.s.now+w.s.upTo(w.s.delay), do)
	return true
}

func (w *worker) segment(g *ring, n elastic.Step) {
	if w.ring != g || w.broken || w.resend(func() { w.segment(g, n) }) {
		return
	}
	if g.rounds[n].segments++; g.rounds[n].segments < len(g.workers) {
		return
	}
	delete(g.rounds, n-1)
	for _, p := range g.workers {
		p.later(w.s.upTo(w.s.delay), func() { p.commit(g, n) })
	}
}

func (w *worker) commit(g *ring, n elastic.Step) {
	if w.ring != g || w.broken || w.resend(func() { w.commit(g, n) }) {
		return
	}
	w.s.check.applies(w, n, g.gen)
	w.weights = w.s.update(w.weights, n, g.gen)
	w.applied, w.holds, w.reduced, w.term = n, true, g.gen, g.gen
	w.s.check.state(w)
	if w.s.every > 0 && n%w.s.every == 0 {
		w.s.save(w, g, n)
	}
	w.train(g)
}
