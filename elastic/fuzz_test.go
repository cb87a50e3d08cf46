package elastic_test

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/farandole-ml/farandole/elastic"
)

// events reads any bytes as a sequence of events: plausible ones, stale ones and nonsense.
type events struct{ b []byte }

func (e *events) next() int {
	if len(e.b) == 0 {
		return 0
	}
	n := int(e.b[0])
	e.b = e.b[1:]
	return n
}

func (e *events) id() elastic.MemberID {
	return []elastic.MemberID{"a", "b", "c", "d", "e", "f", "g", ""}[e.next()%8]
}

// gen is mostly about the present one.
func (e *events) gen(s *elastic.State) elastic.Generation {
	switch n := e.next() % 16; n {
	case 0:
		return math.MaxUint64
	case 1:
		return 0
	case 2, 3:
		return max(s.Generation(), 1) - 1
	case 4, 5:
		if v := s.View(); v != nil {
			return v.Generation
		}
	case 6:
		return s.Generation() + 1
	}
	return s.Generation()
}

func (e *events) step(s *elastic.State) elastic.Step {
	switch n := e.next() % 16; n {
	case 0:
		return elastic.Step(math.MaxInt64)
	case 1:
		return elastic.Step(math.MinInt64)
	case 2, 3, 4:
		return 0
	default:
		return s.Applied() + elastic.Step(n%5) - 2
	}
}

func (e *events) fence(s *elastic.State) elastic.Fence {
	flags := e.next()
	f := elastic.Fence{Generation: e.gen(s), Applied: e.step(s), HoldsReduced: flags&1 > 0, HoldsState: flags&6 > 0}
	if flags&8 > 0 {
		f.Checkpoint = e.step(s)
	}
	if flags&16 > 0 {
		f.View, f.Term = e.gen(s), e.gen(s)
	}
	return f
}

func (e *events) event(s *elastic.State) elastic.Event {
	switch e.next() % 24 {
	case 0, 1, 2, 3:
		j := elastic.Joined{Member: elastic.Member{ID: e.id(), Host: "h", Class: "f32"}, Fence: e.fence(s), Shards: 4}
		if n := e.next(); n > 250 {
			j.Shards, j.Member.Class = n-253, "tf32"
		}
		return j
	case 4:
		return elastic.Detached{ID: e.id()}
	case 5:
		return elastic.Lost{ID: e.id(), Reason: "killed"}
	case 6, 7:
		return elastic.Heard{ID: e.id(), Generation: e.gen(s), Applied: e.step(s), Moved: int64(e.next())}
	case 8:
		return elastic.Suspected{By: e.id(), Peer: e.id(), Generation: e.gen(s)}
	case 9, 10, 11, 12, 13, 14:
		f := elastic.Fenced{ID: e.id(), Generation: e.gen(s), Fence: e.fence(s)}
		for _, m := range s.Members() {
			if m.Status == "fencing" && e.next()%4 > 0 {
				f.ID, f.Generation = m.ID, s.Generation()
			}
		}
		return f
	case 15, 16, 17:
		return elastic.Formed{ID: e.id(), Generation: e.gen(s)}
	case 18:
		return elastic.Finished{ID: e.id(), Generation: e.gen(s), Step: e.step(s)}
	case 19:
		return elastic.Departed{ID: e.id()}
	case 20:
		if e.next() == 7 {
			return elastic.Stop{Reason: "cancelled"}
		}
	}
	return elastic.Tick{}
}

// driver holds what must hold whatever the events are.
type driver struct {
	t       *testing.T
	durable elastic.Record
	views   map[elastic.Generation]*elastic.View
	highest elastic.Generation
}

func (d *driver) carryOut(actions []elastic.Action) {
	for _, a := range actions {
		switch a := a.(type) {
		case elastic.Persist:
			require.GreaterOrEqual(d.t, a.Record.Generation, d.durable.Generation)
			if n := len(a.Record.Ledger); n > 0 {
				require.NoError(d.t, elastic.VerifyLedger(a.Record.Ledger, a.Record.Ledger[n-1].Last))
			}
			d.durable = a.Record
		case elastic.Prepare:
			require.GreaterOrEqual(d.t, a.Generation, d.highest)
			require.GreaterOrEqual(d.t, d.durable.Generation, a.Generation)
			require.Nil(d.t, d.views[a.Generation], "a generation is prepared after its view")
			d.highest = a.Generation
		case elastic.Announce:
			require.Same(d.t, d.durable.View, a.View)
			if v := d.views[a.View.Generation]; v != nil {
				require.Same(d.t, v, a.View)
			}
			d.views[a.View.Generation] = a.View
			require.GreaterOrEqual(d.t, a.View.RankOf(a.To), 0)
			require.Len(d.t, a.View.Ranges, a.View.World())
			require.Len(d.t, a.View.Sync, a.View.World())
			require.LessOrEqual(d.t, a.View.World(), a.View.Shards)
			require.GreaterOrEqual(d.t, a.View.Resume, elastic.Step(0))
		}
	}
}

func FuzzStep(f *testing.F) {
	f.Add([]byte{1, 2, 3})
	f.Add([]byte("\x02\x01\x00\x00\x02\x08\x00\x00\x00\x00\x02\x08\x00\x09\x00\x08\x02\x08\x00\x09\x01\x08\x02\x08\x00\x0f\x00\x08\x0f\x01\x08"))
	seed := make([]byte, 400)
	for i := range seed {
		seed[i] = byte(i * i * 31 >> 3)
	}
	f.Add(seed)
	f.Fuzz(func(t *testing.T, b []byte) { feed(t, b) })
}

// TestRandomEvents is the fuzz target on longer sequences than a fuzzer finds in a short time. Most must come as
// far as a view, or the test would show nothing.
func TestRandomEvents(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	views, jobs := 0, 300
	for range jobs {
		b := make([]byte, 200+r.IntN(3000))
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		views += feed(t, b)
	}
	t.Logf("%d views in %d jobs", views, jobs)
	require.Greater(t, views, jobs)
}

// feed runs jobs on any bytes and gives the number of their views.
func feed(t *testing.T, b []byte) (views int) {
	for e := (&events{b}); len(e.b) > 0; {
		views += e.job(t)
	}
	return views
}

func (e *events) job(t *testing.T) int {
	p := elastic.Policy{Job: "j", Min: 1 + e.next()%3, Max: e.next() % 5, Start: e.next() % 4}
	s := elastic.New(p)
	d := &driver{t: t, views: map[elastic.Generation]*elastic.View{}}
	var now time.Duration
	for len(e.b) > 0 && s.Result() == nil {
		now += time.Duration(e.next()%64) * time.Millisecond
		before := s.Generation()
		actions := s.Step(now, e.event(s))
		if s.Generation() < before {
			t.Fatalf("the generation goes back from %d to %d", before, s.Generation())
		}
		if e.next() == 13 { // the coordinator crashes in the middle
			d.carryOut(actions[:len(actions)*e.next()/256])
			s = elastic.Restore(p, d.durable, now)
			continue
		}
		d.carryOut(actions)
		s.Members()
		if n := len(s.Ledger()); n > 0 {
			if err := elastic.VerifyLedger(s.Ledger(), s.Ledger()[n-1].Last); err != nil {
				t.Fatal(err)
			}
		}
	}
	return len(d.views)
}
