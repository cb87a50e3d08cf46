package elastictest

import (
	"time"

	"github.com/farandole-ml/farandole/elastic"
)

// coord drives the real state machine, and crashes.
type coord struct {
	s       *sim
	state   *elastic.State // nil while it is down
	life    int            // counts the restarts
	origin  time.Duration  // of this life's clock
	durable elastic.Record
	stored  bool // something was ever durable
	streams map[elastic.MemberID]*stream
	ended   *elastic.Ended

	crashIn int // actions until the next crash; negative: none planned
	downFor time.Duration
	asleep  time.Duration // frozen until then
	backlog []func()
}

// stream is one attachment of a worker. Each direction keeps its order.
type stream struct {
	w        *worker
	life     int
	broken   bool // cut: what is under way is lost
	closed   bool // by the coordinator: what it sent still arrives
	toC, toW time.Duration
}

func (c *coord) up() {
	c.life++
	c.origin = c.s.now - c.s.upTo(time.Hour)
	c.crashIn = -1
	c.asleep = 0
	c.backlog = nil
	c.streams = map[elastic.MemberID]*stream{}
	if c.stored {
		c.state = elastic.Restore(c.s.policy, c.durable, c.s.now-c.origin)
	} else {
		c.state = elastic.New(c.s.policy)
	}
	c.s.logf("coordinator up, life %d, generation %d, %s", c.life, c.state.Generation(), c.state.Phase())
	if c.ended = c.state.Result(); c.ended != nil { // it crashed between making the end durable and telling it
		c.s.over = true
		return
	}
	c.tick(c.life)
}

func (c *coord) tick(life int) {
	if c.life != life || c.state == nil {
		return
	}
	c.receive(func() { c.feed(elastic.Tick{}) })
	beat := c.s.limits.Heartbeat
	c.s.after(max(c.s.between(beat*9/10, beat*11/10), c.asleep-c.s.now), func() { c.tick(life) })
}

// receive lets the coordinator handle something, now or when it wakes.
func (c *coord) receive(do func()) {
	if c.s.now < c.asleep {
		c.backlog = append(c.backlog, do)
		return
	}
	do()
}

func (c *coord) sleep(d time.Duration) {
	if c.state == nil || c.s.now < c.asleep {
		return
	}
	c.asleep = c.s.now + d
	life := c.life
	c.s.after(d, func() {
		if c.life != life || c.state == nil {
			return
		}
		c.asleep = 0
		late := c.backlog
		c.backlog = nil
		if c.s.chance(0.5) { // the timer may come before or behind what has piled up
			c.feed(elastic.Tick{})
		}
		for _, do := range late {
			if c.life == life && c.state != nil {
				do()
			}
		}
	})
}

func (c *coord) crash(downFor time.Duration) {
	if c.state == nil {
		return
	}
	c.s.logf("coordinator crashes")
	c.state = nil
	c.crashIn = -1
	for _, w := range c.s.workers { // in a fixed order
		if st := w.stream; st != nil && st.life == c.life {
			c.s.cut(st)
		}
	}
	c.s.after(downFor, func() {
		if c.state == nil && !c.s.over {
			c.up()
		}
	})
}

func (c *coord) feed(e elastic.Event) {
	if c.state == nil || c.s.over {
		return
	}
	if m := c.s.o.Mutant.Event; m != nil {
		e = m(e)
	}
	before := c.state.Generation()
	actions := c.state.Step(c.s.now-c.origin, e)
	if m := c.s.o.Mutant.Actions; m != nil {
		actions = m(actions)
	}
	if len(actions) > 0 {
		c.s.logf("%T%+v", e, e)
	}
	c.s.check.generation(before, c.state.Generation())
	for _, a := range actions {
		if c.crashIn == 0 {
			c.crash(c.downFor)
			return
		}
		if c.crashIn > 0 {
			c.crashIn--
		}
		c.s.logf("    %T%+v", a, a)
		c.carryOut(a)
		if c.s.over || c.s.err != nil {
			return
		}
	}
}

func (c *coord) carryOut(a elastic.Action) {
	switch a := a.(type) {
	case elastic.Persist:
		c.s.check.persisted(c.durable, a.Record)
		c.durable, c.stored = a.Record, true
	case elastic.Prepare:
		c.s.check.prepared(a, c.durable)
		c.send(a.To, func(w *worker) { w.command(func() { w.prepare(a.Generation) }) })
	case elastic.Announce:
		c.s.check.announced(a, c.durable)
		c.send(a.To, func(w *worker) { w.command(func() { w.announce(a.View) }) })
	case elastic.Evict:
		if st := c.streams[a.ID]; st != nil {
			c.send(a.ID, func(w *worker) { w.evicted(a.Final) })
			st.closed = true
			delete(c.streams, a.ID)
		}
	case elastic.Ended:
		c.ended = &a
		c.s.over = true
	}
}

// send gives a message to the current stream of a member; without one it is lost.
func (c *coord) send(to elastic.MemberID, do func(w *worker)) {
	st := c.streams[to]
	if st == nil || st.broken {
		return
	}
	w := st.w
	st.toW = max(st.toW+1, c.s.now+c.s.upTo(c.s.delay))
	c.s.after(st.toW-c.s.now, func() {
		if !st.broken && !w.cutOff() {
			w.control(func() { do(w) })
		}
	})
}

// send gives an event to the coordinator over the worker's stream.
func (w *worker) send(e elastic.Event) {
	st, s := w.stream, w.s
	if st == nil || st.broken || w.cutOff() {
		return
	}
	c := s.coord
	st.toC = max(st.toC+1, s.now+s.upTo(s.delay))
	s.after(st.toC-s.now, func() {
		if st.broken || st.closed || c.life != st.life || c.state == nil || w.cutOff() {
			return
		}
		c.receive(func() {
			if st.closed {
				return
			}
			if _, ok := e.(elastic.Joined); ok {
				if old := c.streams[w.id]; old != nil && old != st {
					s.cut(old)
				}
				c.streams[w.id] = st
			}
			c.feed(e)
		})
	})
}

// cut breaks a stream: both ends see it, each in its own time, and what is under way is lost.
func (s *sim) cut(st *stream) {
	if st.broken {
		return
	}
	st.broken = true
	c, w := s.coord, st.w
	s.after(s.upTo(s.delay), func() {
		if c.life == st.life && c.state != nil && c.streams[w.id] == st {
			c.receive(func() {
				if c.streams[w.id] == st {
					delete(c.streams, w.id)
					c.feed(elastic.Detached{ID: w.id})
				}
			})
		}
	})
	s.after(s.upTo(s.delay), func() { w.control(func() { w.detached(st) }) })
}
