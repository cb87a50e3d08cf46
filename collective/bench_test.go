package collective_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/farandole-ml/farandole/collective"
	"github.com/farandole-ml/farandole/collective/transport/tcp"
	"github.com/farandole-ml/farandole/elastic"
	"github.com/stretchr/testify/require"
)

var benchSizes = []int{1 << 10, 64 << 10, 1 << 20, 16 << 20, 64 << 20}

// operation makes a rank's collective on a buffer, to be measured.
type operation struct {
	name string
	of   func(g *collective.Group, b []float32) func(ctx context.Context) error
}

// operations are the algorithms of all-reduce and of the tree-ordered one.
var operations = func() (all []operation) {
	for _, a := range []collective.Algorithm{collective.Ring, collective.HalvingDoubling, collective.Direct, collective.BinaryTree} {
		all = append(all, operation{a.String(), func(g *collective.Group, b []float32) func(context.Context) error {
			c := collective.Call{Kind: collective.OpAllReduce, Out: collective.Of(b), In: collective.Of(b), Algorithm: a}
			return func(ctx context.Context) error { return g.Do(ctx, &c) }
		}})
	}
	for _, a := range []collective.Algorithm{collective.HalvingDoubling, collective.Direct} {
		all = append(all, operation{"tree, " + a.String(), func(g *collective.Group, b []float32) func(context.Context) error {
			c := collective.Call{Kind: collective.OpReduceTree, Out: collective.Of(b), Algorithm: a, Shards: g.World()}
			c.Ranges = elastic.Assign(g.World(), g.World())
			c.Partials = []collective.Partial{{Node: c.Ranges[g.Rank()], Data: b}}
			return func(ctx context.Context) error { return g.Do(ctx, &c) }
		}})
	}
	return append(all, operation{"tree of 8 shards", func(g *collective.Group, b []float32) func(context.Context) error {
		c := collective.Call{Kind: collective.OpReduceTree, Out: collective.Of(b), Shards: 8, Ranges: elastic.Assign(8, g.World())}
		for i, node := range elastic.Partials(c.Ranges[g.Rank()], c.Shards) {
			if i > 0 {
				b = make([]float32, len(b))
			}
			c.Partials = append(c.Partials, collective.Partial{Node: node, Data: b})
		}
		return func(ctx context.Context) error { return g.Do(ctx, &c) }
	}})
}()

func sizeName(n int) string {
	if n >= 1<<20 {
		return fmt.Sprintf("%dM", n>>20)
	}
	return fmt.Sprintf("%dK", n>>10)
}

// BenchmarkAllReduceTCP has all ranks in one process. Its allocations are those of all ranks together.
func BenchmarkAllReduceTCP(b *testing.B) {
	for _, op := range operations {
		for _, world := range []int{2, 4} {
			for _, size := range benchSizes {
				b.Run(fmt.Sprintf("%s/ranks=%d/%s", op.name, world, sizeName(size)), func(b *testing.B) {
					benchmark(b, op, world, size)
				})
			}
		}
	}
}

func benchmark(b *testing.B, op operation, world, size int) {
	groups := make([]*collective.Group, world)
	runs := make([]func(context.Context) error, world)
	for r, tr := range mesh(b, world, tcp.Config{}) {
		groups[r] = collective.New(tr)
		defer groups[r].Close()
		runs[r] = op.of(groups[r], make([]float32, size/4))
	}
	round := func(n int) {
		var wg sync.WaitGroup
		for _, run := range runs {
			wg.Go(func() {
				for range n {
					if err := run(context.Background()); err != nil {
						b.Error(err)
						return
					}
				}
			})
		}
		wg.Wait()
	}
	round(3)
	b.SetBytes(int64(size))
	b.ReportAllocs()
	b.ResetTimer()
	round(b.N)
}

// mesh forms a group over loopback TCP.
func mesh(t testing.TB, world int, cfg tcp.Config) []collective.Transport {
	listeners := make([]*tcp.Listener, world)
	addrs := make([]string, world)
	for r := range listeners {
		l, err := tcp.Listen("127.0.0.1:0", cfg)
		require.NoError(t, err)
		t.Cleanup(func() { l.Close() })
		listeners[r], addrs[r] = l, l.Addr()
	}
	transports := make([]collective.Transport, world)
	errs := make([]error, world)
	var wg sync.WaitGroup
	for r, l := range listeners {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			transports[r], errs[r] = l.Connect(ctx, tcp.ID{Job: "bench", Generation: 1, Rank: r}, addrs)
		})
	}
	wg.Wait()
	for _, err := range errs {
		require.NoError(t, err)
	}
	return transports
}
