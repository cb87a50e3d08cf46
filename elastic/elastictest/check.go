package elastictest

import (
	"reflect"
	"slices"

	"github.com/farandole-ml/farandole/elastic"
)

// checker holds the invariants, event by event.
type checker struct {
	s        *sim
	highest  elastic.Generation // ever in a Prepare or a view
	views    map[elastic.Generation]*elastic.View
	order    []*elastic.View // as they became durable
	attempts int             // generations that were started
	causes   int             // faults and new workers: what may call for one
	chain    []uint64        // the undisturbed run's weights, by step
}

// generation: it never goes back.
func (c *checker) generation(before, after elastic.Generation) {
	if after < before {
		c.s.fail("the generation went back from %d to %d", before, after)
	}
}

// persisted: the ledger is one lineage, and a generation has one view.
func (c *checker) persisted(old, r elastic.Record) {
	if r.Generation < old.Generation {
		c.s.fail("the durable generation goes back from %d to %d", old.Generation, r.Generation)
	}
	if n := len(r.Ledger); n > 0 {
		if err := elastic.VerifyLedger(r.Ledger, r.Ledger[n-1].Last); err != nil {
			c.s.fail("%v", err)
		}
	}
	v := r.View
	if v == nil || len(c.order) > 0 && c.order[len(c.order)-1] == v {
		return
	}
	if c.views == nil {
		c.views = map[elastic.Generation]*elastic.View{}
	}
	if other := c.views[v.Generation]; other != nil {
		if !reflect.DeepEqual(other, v) {
			c.s.fail("generation %d has two views", v.Generation)
		}
		return
	}
	c.views[v.Generation] = v
	c.view(v)
	c.order = append(c.order, v)
	if c.s.rep.Views++; c.s.rep.Views == 1 {
		c.s.rep.First = v.World()
	}
}

// view: what every view must be.
func (c *checker) view(v *elastic.View) {
	s, world := c.s, v.World()
	limit := s.shards
	if s.policy.Max > 0 {
		limit = min(limit, s.policy.Max)
	}
	for _, m := range v.Roster {
		if s.byID[m.ID].leaving { // it may hand its state over to one more
			limit = min(limit+1, s.shards)
		}
	}
	if world < s.policy.Min || world > limit || len(v.Ranges) != world || len(v.Sync) != world {
		s.fail("generation %d: a view of %d with %d ranges and %d sync plans", v.Generation, world, len(v.Ranges), len(v.Sync))
		return
	}
	at := 0
	for r, m := range v.Roster {
		if v.RankOf(m.ID) != r || m.Class != "f32" {
			s.fail("generation %d: %s is twice in the roster or of class %s", v.Generation, m.ID, m.Class)
		}
		if v.Ranges[r].First != at || v.Ranges[r].Len() < 1 {
			s.fail("generation %d: ranges %v", v.Generation, v.Ranges)
		}
		at = v.Ranges[r].End
		for _, from := range v.Sync[r].From {
			k := v.Sync[from].Kind
			if k != elastic.SyncNone && (k != elastic.SyncCheckpoint || v.Sync[r].Kind != elastic.SyncState) {
				s.fail("generation %d: rank %d is to get %v from rank %d, which has it not", v.Generation, r, v.Sync[r].Kind, from)
			}
		}
		if needs := v.Sync[r].Kind == elastic.SyncReduced || v.Sync[r].Kind == elastic.SyncState; needs != (len(v.Sync[r].From) > 0) {
			s.fail("generation %d: rank %d syncs by %v from %v", v.Generation, r, v.Sync[r].Kind, v.Sync[r].From)
		}
	}
	if at != v.Shards {
		s.fail("generation %d: ranges %v do not cover %d shards", v.Generation, v.Ranges, v.Shards)
	}
}

// prepared: durable before anybody hears of it, and above every view.
func (c *checker) prepared(a elastic.Prepare, durable elastic.Record) {
	s := c.s
	if a.Generation < c.highest && !s.o.Trusting {
		s.fail("a Prepare of generation %d after generation %d", a.Generation, c.highest)
	}
	if a.Generation > c.highest {
		if c.attempts++; c.attempts > 3+3*c.causes {
			s.fail("%d generations for %d causes: needless views", c.attempts, c.causes)
		}
	}
	c.highest = max(c.highest, a.Generation)
	s.rep.Generations = c.highest
	if !s.o.Trusting && durable.Generation < a.Generation {
		s.fail("generation %d is prepared before it is durable", a.Generation)
	}
	if !s.o.Trusting && c.views[a.Generation] != nil {
		s.fail("generation %d is prepared again after its view", a.Generation)
	}
}

// announced: durable before anybody hears of it, and everybody fenced before.
func (c *checker) announced(a elastic.Announce, durable elastic.Record) {
	s := c.s
	if c.views == nil {
		c.views = map[elastic.Generation]*elastic.View{}
	}
	if other := c.views[a.View.Generation]; other == nil {
		c.views[a.View.Generation] = a.View // a mutant's: it was never durable
	} else if !reflect.DeepEqual(other, a.View) {
		s.fail("generation %d has two views", a.View.Generation)
	}
	if s.o.Trusting {
		return
	}
	if durable.View != a.View {
		s.fail("the view of generation %d is announced before it is durable", a.View.Generation)
	}
	for _, m := range a.View.Roster {
		if w := s.byID[m.ID]; w.fenced < a.View.Generation {
			s.fail("generation %d is announced, but %s is fenced at %d", a.View.Generation, m.ID, w.fenced)
		}
	}
}

// entered: survivors keep their order.
func (c *checker) entered(w *worker, v *elastic.View, rank int) {
	if c.s.o.Trusting {
		return
	}
	if rank < 0 {
		c.s.fail("%s got a view that it is not in", w.id)
		return
	}
	if p := v.Sync[rank]; p.Kind == elastic.SyncNone && (!w.valid || w.applied != v.Resume) {
		c.s.fail("%s needs no sync to step %d, says generation %d, but it is at %d (state %v)", w.id, v.Resume, v.Generation, w.applied, w.valid)
	}
}

// formed: whatever the way, a member is then at the resume step with the lineage's weights.
func (c *checker) formed(w *worker, g *ring) {
	if c.s.o.Trusting {
		return
	}
	if w.applied != g.view.Resume || !w.valid {
		c.s.fail("%s is at step %d (state %v) after its sync to %d", w.id, w.applied, w.valid, g.view.Resume)
	}
	c.state(w)
	for r, p := range g.workers {
		if g.synced[r] && p.ring == g && p.applied == g.view.Resume && p.weights != w.weights {
			c.s.fail("%s and %s differ at step %d of generation %d", w.id, p.id, w.applied, g.gen)
		}
	}
}

// applies: each step once and in order, never while fenced, and never on a side that was left behind.
func (c *checker) applies(w *worker, n elastic.Step, gen elastic.Generation) {
	if c.s.o.Trusting {
		return
	}
	if n != w.applied+1 || !w.valid {
		c.s.fail("%s applies step %d at step %d (state %v)", w.id, n, w.applied, w.valid)
	}
	if w.ring == nil || w.fenced > w.ring.gen {
		c.s.fail("%s applies step %d while it is fenced at %d", w.id, n, w.fenced)
		return
	}
	for i := len(c.order) - 1; i >= 0 && c.order[i].Generation > w.ring.gen; i-- {
		v := c.order[i]
		shared := slices.ContainsFunc(v.Roster, func(m elastic.Member) bool { return w.ring.view.RankOf(m.ID) >= 0 })
		if shared && n > v.Resume+1 {
			c.s.fail("%s applies step %d in generation %d, but generation %d resumed at %d with members of it", w.id, n, w.ring.gen, v.Generation, v.Resume)
		}
	}
}

// state: with exact reduction a step's weights are those of the undisturbed run, whoever has them.
func (c *checker) state(w *worker) {
	if c.s.o.Inexact || c.s.o.Trusting {
		return
	}
	for elastic.Step(len(c.chain)) <= w.applied {
		n := len(c.chain)
		if n == 0 {
			c.chain = append(c.chain, initial)
			continue
		}
		c.chain = append(c.chain, c.s.update(c.chain[n-1], elastic.Step(n), 0))
	}
	if w.weights != c.chain[w.applied] {
		c.s.fail("%s holds weights %x at step %d, want %x", w.id, w.weights, w.applied, c.chain[w.applied])
	}
}
