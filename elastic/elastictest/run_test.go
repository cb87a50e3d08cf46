package elastictest_test

import (
	"flag"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/farandole-ml/farandole/elastic/elastictest"
)

var (
	seeds = flag.Int("sim.seeds", 0, "simulated jobs; 0: 2,000 with -short, 10,000 otherwise")
	first = flag.Uint64("sim.first", 1, "the first seed")
	one   = flag.Uint64("sim.seed", 0, "run this seed alone, and log it")
)

func TestOne(t *testing.T) {
	if *one == 0 {
		t.Skip("give -sim.seed")
	}
	for _, inexact := range []bool{false, true} {
		r, err := elastictest.Run(*one, elastictest.Options{Inexact: inexact, Log: func(l string) { fmt.Println(l) }})
		t.Logf("%+v", r)
		require.NoError(t, err)
	}
}

func count() int {
	switch {
	case *seeds > 0:
		return *seeds
	case testing.Short():
		return 2_000
	}
	return 10_000
}

// TestSimJobs runs jobs under every fault. Its name is what `make sim` looks for.
func TestSimJobs(t *testing.T) {
	n := count()
	fails := 0
	var events, views, redone int
	kinds := map[elastictest.Fault]int{}
	syncs := map[any]int{}
	for seed := *first; seed < *first+uint64(n); seed++ {
		r, err := elastictest.Run(seed, elastictest.Options{})
		if err != nil {
			t.Error(err)
			if fails++; fails > 10 {
				t.FailNow()
			}
		}
		events += r.Events
		views += r.Views
		redone += r.Redone
		for f, k := range r.Faults {
			kinds[f] += k
		}
		for f, k := range r.Syncs {
			syncs[f] += k
		}
	}
	t.Logf("%d jobs, %d events, %d views, %d steps redone, faults %v, syncs %v", n, events, views, redone, kinds, syncs)
}

// TestSimInexact runs jobs whose steps have other results when another generation redoes them: states of different
// lineages must not meet in a view.
func TestSimInexact(t *testing.T) {
	for seed := *first; seed < *first+uint64(count()/2); seed++ {
		_, err := elastictest.Run(seed, elastictest.Options{Inexact: true})
		require.NoError(t, err)
	}
}
