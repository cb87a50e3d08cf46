package elastictest_test

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/farandole-ml/farandole/elastic"
	"github.com/farandole-ml/farandole/elastic/elastictest"
)

// rewriteViews makes a mutant of a change to every new view, applied wherever the view goes.
func rewriteViews(change func(v *elastic.View)) func() elastictest.Mutant {
	return func() elastictest.Mutant {
		changed := map[elastic.Generation]*elastic.View{}
		mutate := func(v *elastic.View) *elastic.View {
			if v == nil {
				return nil
			}
			if changed[v.Generation] == nil {
				c := *v
				c.Sync = slices.Clone(v.Sync)
				change(&c)
				changed[v.Generation] = &c
			}
			return changed[v.Generation]
		}
		return elastictest.Mutant{Actions: func(actions []elastic.Action) []elastic.Action {
			for i, a := range actions {
				switch a := a.(type) {
				case elastic.Persist:
					a.Record.View = mutate(a.Record.View)
					actions[i] = a
				case elastic.Announce:
					a.View = mutate(a.View)
					actions[i] = a
				}
			}
			return actions
		}}
	}
}

// dropping makes a mutant that does not carry out some actions.
func dropping(drop func(a elastic.Action) bool) elastictest.Mutant {
	return elastictest.Mutant{Actions: func(actions []elastic.Action) []elastic.Action {
		return slices.DeleteFunc(actions, drop)
	}}
}

func raises(a elastic.Action) bool {
	p, ok := a.(elastic.Persist)
	return ok && (p.Record.View == nil || p.Record.View.Generation < p.Record.Generation)
}

func persistsView(a elastic.Action) bool {
	p, ok := a.(elastic.Persist)
	return ok && p.Record.View != nil && p.Record.View.Generation == p.Record.Generation && p.Record.Ended == nil
}

// planted are deliberate protocol bugs. The simulator must find each, with all its checks and also by what a
// user would see alone: other weights, a broken ledger, two views of a generation, a job that does not end.
var planted = []struct {
	name    string
	mutant  func() elastictest.Mutant
	within  int // seeds, with all checks
	visible int // seeds, by the outcome alone
}{
	{"a laggard skips the step that it missed", rewriteViews(func(v *elastic.View) {
		for r := range v.Sync {
			if v.Sync[r].Kind == elastic.SyncReduced {
				v.Sync[r] = elastic.SyncPlan{}
			}
		}
	}), 200, 200},
	{"the lowest applied step is resumed", rewriteViews(func(v *elastic.View) {
		behind := false
		for r := range v.Sync {
			if v.Sync[r].Kind == elastic.SyncReduced {
				v.Sync[r] = elastic.SyncPlan{}
				behind = true
			}
		}
		if behind {
			v.Resume--
		}
	}), 200, 200},
	{"a joiner starts without the state", rewriteViews(func(v *elastic.View) {
		for r := range v.Sync {
			if v.Sync[r].Kind == elastic.SyncState {
				v.Sync[r] = elastic.SyncPlan{}
			}
		}
	}), 50, 50},
	{"a raised generation is not made durable", func() elastictest.Mutant { return dropping(raises) }, 50, 0},
	{"a view is announced that is not durable", func() elastictest.Mutant { return dropping(persistsView) }, 50, 0},
	{"a generation is used again after a crash", func() elastictest.Mutant {
		m := dropping(func(a elastic.Action) bool { return raises(a) || persistsView(a) })
		m.Event = func(e elastic.Event) elastic.Event {
			if j, ok := e.(elastic.Joined); ok { // and the members' own knowledge is not used
				j.Fence.Generation, j.Fence.View, j.Fence.Term = 0, 0, 0
				return j
			}
			return e
		}
		return m
	}, 50, 1000},
	{"one member is not told the view", func() elastictest.Mutant {
		return dropping(func(a elastic.Action) bool {
			v, ok := a.(elastic.Announce)
			return ok && v.View.World() > 1 && v.View.RankOf(v.To) == 0
		})
	}, 50, 50},
}

func TestPlantedBugsAreFound(t *testing.T) {
	for _, p := range planted {
		t.Run(p.name, func(t *testing.T) {
			for _, trusting := range []bool{false, true} {
				limit := p.within
				if trusting {
					limit = p.visible // none where the protocol heals it by other means
				}
				if limit == 0 {
					continue
				}
				found := false
				for seed := uint64(1); seed <= uint64(limit) && !found; seed++ {
					_, err := elastictest.Run(seed, elastictest.Options{Mutant: p.mutant(), Trusting: trusting})
					if found = err != nil; found {
						require.ErrorIs(t, err, elastictest.ErrInvariant)
						t.Logf("trusting=%v: %v", trusting, err)
					}
				}
				require.Truef(t, found, "not found within %d seeds (trusting=%v)", limit, trusting)
			}
		})
	}
}
