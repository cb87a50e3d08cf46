package collective_test

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/farandole-ml/farandole/collective"
	"github.com/farandole-ml/farandole/collective/transport/inproc"
	"github.com/farandole-ml/farandole/collective/transport/tcp"
	"github.com/farandole-ml/farandole/elastic"
	"github.com/stretchr/testify/require"
)

func tcpMesh(t testing.TB, world int) []collective.Transport {
	ls := make([]*tcp.Listener, world)
	addrs := make([]string, world)
	for r := range ls {
		l, err := tcp.Listen("127.0.0.1:0", tcp.Config{})
		require.NoError(t, err)
		t.Cleanup(func() { l.Close() })
		ls[r], addrs[r] = l, l.Addr()
	}
	trs := make([]collective.Transport, world)
	var wg sync.WaitGroup
	for r := range ls {
		wg.Go(func() {
			ctx, c := context.WithTimeout(context.Background(), 10*time.Second)
			defer c()
			var err error
			trs[r], err = ls[r].Connect(ctx, tcp.ID{Job: "j", Generation: 1, Rank: r}, addrs)
			if err != nil {
				panic(err)
			}
		})
	}
	wg.Wait()
	return trs
}

func all(t testing.TB, trs []collective.Transport, f func(g *collective.Group) error) {
	var wg sync.WaitGroup
	for r := range trs {
		wg.Go(func() {
			g := collective.NewTuned(trs[r], collective.Tuning{ChunkBytes: 256})
			if err := f(g); err != nil {
				panic(fmt.Sprint(r, err))
			}
		})
	}
	wg.Wait()
	for _, tr := range trs {
		tr.Close()
	}
}

func TestSmoke(t *testing.T) {
	for name, mk := range map[string]func(w int) []collective.Transport{
		"inproc": inproc.New, "tcp": func(w int) []collective.Transport { return tcpMesh(t, w) }} {
		t.Run(name, func(t *testing.T) {
			for _, w := range []int{1, 2, 3, 5, 8} {
				all(t, mk(w), func(g *collective.Group) error {
					ctx := context.Background()
					for _, n := range []int{0, 1, 7, 100, 3000, 100003} {
						b := make([]float32, n)
						for i := range b {
							b[i] = float32(i%100 + g.Rank())
						}
						if err := g.AllReduce(ctx, b); err != nil {
							return err
						}
						for i := range b {
							if b[i] != float32(i%100*w+w*(w-1)/2) {
								return fmt.Errorf("n %d at %d", n, i)
							}
						}
						shards := 11
						ranges := elastic.Assign(shards, w)
						node := func(a elastic.Range) []float32 {
							d := make([]float32, n)
							var f func(a, b int, i int) float32
							f = func(a, b, i int) float32 {
								if b-a == 1 {
									r := rand.New(rand.NewPCG(uint64(a), uint64(i)))
									return (r.Float32() - .5) * float32(math.Exp2(float64(r.IntN(40)-20)))
								}
								m := (a + b) / 2
								return f(a, m, i) + f(m, b, i)
							}
							for i := range d {
								d[i] = f(a.First, a.End, i%1000)
							}
							return d
						}
						var ps []collective.Partial
						for _, r := range elastic.Partials(ranges[g.Rank()], shards) {
							ps = append(ps, collective.Partial{Node: r, Data: node(r)})
						}
						if err := g.ReduceTree(ctx, ps[len(ps)-1].Data, ps, ranges, shards); err != nil {
							return err
						}
						want := node(elastic.Range{0, shards})
						for i := range want {
							if want[i] != ps[len(ps)-1].Data[i] {
								return fmt.Errorf("tree n %d at %d", n, i)
							}
						}
						bb := make([]byte, n)
						if g.Rank() == w-1 {
							for i := range bb {
								bb[i] = byte(i)
							}
						}
						if err := g.Broadcast(ctx, bb, w-1); err != nil {
							return err
						}
						for i := range bb {
							if bb[i] != byte(i) {
								return fmt.Errorf("bc n %d at %d", n, i)
							}
						}
						for i := range bb {
							bb[i] = byte(i + g.Rank())
						}
						out := make([]byte, w*n)
						if err := g.AllGather(ctx, out, bb); err != nil {
							return err
						}
						for i := range out {
							if out[i] != byte(i%n+i/n) {
								return fmt.Errorf("ag n %d at %d", n, i)
							}
						}
						if err := g.Barrier(ctx); err != nil {
							return err
						}
					}
					return nil
				})
			}
		})
	}
}
