package collectivetest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/farandole-ml/farandole/collective"
)

// placed says that ranks are on several hosts.
type placed struct {
	collective.Transport
	hosts []string
}

func (p *placed) Host(rank int) string { return p.hosts[rank] }

// Mark implements collective.Marker.
func (p *placed) Mark(op collective.Op) {
	if m, ok := p.Transport.(collective.Marker); ok {
		m.Mark(op)
	}
}

// place puts the ranks on hosts of perHost each, in rank order; the last host may have fewer.
func place(transports []collective.Transport, perHost int) []collective.Transport {
	hosts := make([]string, len(transports))
	for r := range hosts {
		hosts[r] = fmt.Sprintf("host-%d", r/perHost)
	}
	return placeAt(transports, hosts)
}

func placeAt(transports []collective.Transport, hosts []string) []collective.Transport {
	out := make([]collective.Transport, len(transports))
	for r, tr := range transports {
		out[r] = &placed{tr, hosts}
	}
	return out
}

// testPlaces checks all-reduce by host first, with hosts of equal and unequal size and ranks in any order.
func testPlaces(t *testing.T, mesh Mesh) {
	cases := [][]string{
		{"a", "a", "b", "b"}, {"a", "a", "a", "b", "b", "b"}, {"a", "b", "a", "b"}, {"a", "b", "b"}, {"a", "a", "b", "c", "c", "c"},
		{"a", "b", "c"}, {"a", "a", "a"}, {"a", "b", "c", "a", "b", "c", "a", "a"}, {"a", "a", "b", "b", "c", "c", "d", "d"},
	}
	for _, hosts := range cases {
		for _, name := range []string{"default", "many chunks"} {
			tuning := tunings[name]
			t.Run(fmt.Sprintf("%v/%s", hosts, name), func(t *testing.T) {
				leakFree(t)
				rng := rand.New(rand.NewPCG(1, uint64(len(hosts))))
				c := newCluster(t, placeAt(mesh(t, len(hosts)), hosts), tuning)
				defer c.close(t)
				for _, a := range []collective.Algorithm{collective.Hierarchical, collective.Auto} {
					for range 8 {
						c.check(t, shape{kind: collective.OpAllReduce, algorithm: a}.draw(rng, len(hosts)), false)
					}
				}
				c.must(t, func(g *collective.Group) error { return g.Barrier(context.Background()) })
			})
		}
	}
}
