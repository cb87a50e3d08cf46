package elastictest

import (
	"time"

	"github.com/farandole-ml/farandole/elastic"
)

// worker is the model of a worker process. Its methods run at its own moments: see control and data.
type worker struct {
	s      *sim
	id     elastic.MemberID
	member elastic.Member
	dead   bool
	stream *stream

	frozen    bool
	hung      bool     // only its heartbeats and its reconnecting go on
	inCommand []func() // what it was told to do while it hung
	inControl []func() // what came over the control stream while it was frozen
	inData    []func() // its data plane and its computations, likewise
	cutUntil  time.Duration
	readsDisk bool // can read checkpoints

	applied elastic.Step
	weights uint64
	valid   bool // weights are those of applied
	reduced elastic.Generation
	holds   bool // the reduced gradient of applied, which generation reduced computed
	term    elastic.Generation
	fenced  elastic.Generation
	viewGen elastic.Generation

	ring     *ring // nil while fenced
	broken   bool  // its ring is dead
	formed   bool
	finished bool
	leaving  bool
}

// spawn starts a worker; it attaches within the time given.
func (s *sim) spawn(class string, within time.Duration) *worker {
	n := len(s.workers)
	s.check.causes++
	id := elastic.MemberID("w" + string(rune('A'+n%26)) + string(rune('a'+n/26)))
	w := &worker{
		s: s, id: id, weights: initial, valid: true, readsDisk: s.chance(0.8),
		member: elastic.Member{ID: id, Addr: string(id) + ":1", Host: string(rune('x' + s.rng.IntN(3))), Class: class, Rank: s.rng.IntN(4)},
	}
	s.workers = append(s.workers, w)
	s.byID[id] = w
	s.after(s.upTo(within), func() {
		w.control(w.attach)
		w.beat()
	})
	return w
}

// control runs do on the worker, now or when it wakes; what comes over the control stream keeps its order.
func (w *worker) control(do func()) {
	switch {
	case w.dead:
	case w.frozen:
		w.inControl = append(w.inControl, do)
	default:
		do()
	}
}

// command is control for what the program itself must do.
func (w *worker) command(do func()) {
	w.control(func() {
		if w.hung {
			w.inCommand = append(w.inCommand, do)
			return
		}
		do()
	})
}

// hang stops the program for d.
func (w *worker) hang(d time.Duration) {
	if w.dead || w.hung {
		return
	}
	w.s.logf("%s hangs for %s", w.id, d)
	w.hung = true
	w.s.after(d, func() {
		w.control(func() {
			w.s.logf("%s goes on", w.id)
			w.hung = false
			todo, data := w.inCommand, w.inData
			w.inCommand, w.inData = nil, nil
			for _, do := range todo {
				w.control(do)
			}
			for _, do := range data {
				w.data(do)
			}
		})
	})
}

// data is control for the data plane. When the worker wakes the two race.
func (w *worker) data(do func()) {
	switch {
	case w.dead:
	case w.frozen || w.hung:
		w.inData = append(w.inData, do)
	default:
		do()
	}
}

// later runs do on the worker's data plane after d.
func (w *worker) later(d time.Duration, do func()) { w.s.after(d, func() { w.data(do) }) }

func (w *worker) freeze(d time.Duration) {
	if w.dead || w.frozen {
		return
	}
	w.s.logf("%s freezes for %s", w.id, d)
	w.frozen = true
	w.silence(d)
	w.s.after(d, w.wake)
}

func (w *worker) wake() {
	if w.dead || !w.frozen {
		return
	}
	w.s.logf("%s wakes", w.id)
	w.frozen = false
	control, data := w.inControl, w.inData
	w.inControl, w.inData = nil, nil
	for len(control)+len(data) > 0 {
		if len(control) == 0 || len(data) > 0 && w.s.chance(0.5) {
			w.data(data[0])
			data = data[1:]
			continue
		}
		w.control(control[0])
		control = control[1:]
	}
}

// silence lets the peers' data-plane heartbeat notice that w says nothing, if it lasts.
func (w *worker) silence(d time.Duration) {
	g := w.ring
	if g == nil {
		return
	}
	for _, p := range g.workers {
		notice := w.s.between(300*time.Millisecond, time.Second)
		if p != w && notice < d {
			p.later(notice, func() { p.breakRing(g, w, "data-plane heartbeat missed") })
		}
	}
}

func (w *worker) cutOff() bool { return w.s.now < w.cutUntil }

// isolate cuts the host off, silently: nothing gets through for d, then the connections break.
func (w *worker) isolate(d time.Duration) {
	if w.dead || w.cutOff() {
		return
	}
	w.s.logf("%s is cut off for %s", w.id, d)
	w.cutUntil = w.s.now + d
	w.silence(d)
	if g := w.ring; g != nil && d > 300*time.Millisecond {
		for _, p := range g.workers {
			if p != w {
				w.later(w.s.between(300*time.Millisecond, time.Second), func() { w.breakRing(g, p, "data-plane heartbeat missed") })
			}
		}
	}
	w.s.after(d, func() {
		if st := w.stream; st != nil {
			w.s.cut(st)
		}
	})
}

func (w *worker) kill() {
	if w.dead {
		return
	}
	s := w.s
	s.logf("%s is killed", w.id)
	w.dead = true
	if st := w.stream; st != nil {
		s.cut(st)
	}
	if g := w.ring; g != nil {
		for _, p := range g.workers {
			if p != w && s.chance(0.9) {
				p.later(s.between(3*time.Millisecond, 50*time.Millisecond), func() { p.breakRing(g, w, "connection reset") })
			}
		}
	}
	if s.chance(0.7) { // its agent sees the exit
		s.after(s.between(3*time.Millisecond, 50*time.Millisecond), func() {
			s.coord.receive(func() { s.coord.feed(elastic.Lost{ID: w.id, Reason: "killed"}) })
		})
	}
}

// beat sends heartbeats for ever.
func (w *worker) beat() {
	if w.dead || w.s.over {
		return
	}
	if !w.frozen {
		w.send(elastic.Heard{ID: w.id, Generation: w.viewGen, Applied: w.applied})
	}
	w.s.after(w.s.between(w.s.limits.Heartbeat*8/10, w.s.limits.Heartbeat*11/10), w.beat)
}

func (w *worker) fence() elastic.Fence {
	f := elastic.Fence{Generation: w.fenced, Applied: w.applied, HoldsReduced: w.holds, HoldsState: w.valid}
	if w.readsDisk {
		f.Checkpoint = w.s.newest()
	}
	if !w.s.legacy {
		f.View, f.Term = w.viewGen, w.term
	}
	return f
}

// attach opens a control stream, tries again while it cannot, and repeats what may have got lost.
func (w *worker) attach() {
	s := w.s
	if s.coord.state == nil || w.cutOff() {
		s.after(s.between(50*time.Millisecond, 200*time.Millisecond), func() { w.control(w.attach) })
		return
	}
	w.stream = &stream{w: w, life: s.coord.life}
	w.send(elastic.Joined{Member: w.member, Fence: w.fence(), Shards: s.shards})
	if w.leaving {
		w.depart()
	}
	switch {
	case w.ring == nil:
	case w.broken:
		w.send(elastic.Suspected{By: w.id, Generation: w.ring.gen, Reason: "broken before"})
	default:
		if w.formed {
			w.send(elastic.Formed{ID: w.id, Generation: w.ring.gen})
		}
		if w.finished {
			w.send(elastic.Finished{ID: w.id, Generation: w.ring.gen, Step: w.applied})
		}
	}
}

// depart asks to leave in good order.
func (w *worker) depart() {
	w.leaving = true
	w.send(elastic.Departed{ID: w.id, Reason: "its host drains"})
}

func (w *worker) detached(st *stream) {
	if w.stream == st {
		w.stream = nil
		w.s.after(w.s.between(10*time.Millisecond, 200*time.Millisecond), func() {
			w.control(func() {
				if w.stream == nil {
					w.attach()
				}
			})
		})
	}
}

func (w *worker) evicted(final bool) {
	w.leave()
	if final {
		w.s.logf("%s exits", w.id)
		w.dead = true
		return
	}
	if st := w.stream; st != nil {
		st.broken = true
		w.detached(st)
	}
}

// leave ends its part in its ring; the peers see the connections end.
func (w *worker) leave() {
	g := w.ring
	if g == nil {
		return
	}
	w.ring, w.formed, w.finished = nil, false, false
	for _, p := range g.workers {
		if p != w {
			p.later(w.s.upTo(w.s.delay), func() { p.breakRing(g, w, "closed by peer") })
		}
	}
}

func (w *worker) prepare(g elastic.Generation) {
	if g < w.fenced {
		return
	}
	w.leave()
	w.fenced = g
	w.s.after(w.s.upTo(20*time.Millisecond), func() {
		w.control(func() {
			if w.fenced == g && w.viewGen < g {
				w.send(elastic.Fenced{ID: w.id, Generation: g, Fence: w.fence()})
			}
		})
	})
}

func (w *worker) announce(v *elastic.View) {
	if v.Generation < w.fenced || v.Generation <= w.viewGen {
		return // it has this view already, or is fenced for a newer one
	}
	w.leave()
	w.viewGen, w.fenced = v.Generation, v.Generation
	w.s.enter(w, v)
}

// breakRing ends the worker's part in ring g after an error, if it still has one, and says whom it blames.
func (w *worker) breakRing(g *ring, peer *worker, reason string) {
	if w.ring != g || w.broken {
		return
	}
	w.broken = true
	e := elastic.Suspected{By: w.id, Generation: g.gen, Reason: reason}
	if peer != nil && w.s.chance(0.9) {
		e.Peer = peer.id
	}
	w.send(e)
	for _, p := range g.workers {
		if p != w {
			p.later(w.s.upTo(w.s.delay), func() { p.breakRing(g, w, "closed by peer") })
		}
	}
}
