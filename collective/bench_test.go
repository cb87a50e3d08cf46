package collective_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
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

// The environment of a benchmark's rank that is a process of its own.
const (
	envRank  = "FARANDOLE_BENCH_RANK"
	envAddrs = "FARANDOLE_BENCH_ADDRS"
)

// BenchmarkProcesses has each rank in a process of its own, as the peers' benchmarks do. It prints its own table: the
// median over the repetitions of the slowest rank's time. Run it with -benchtime=1x.
func BenchmarkProcesses(b *testing.B) {
	if os.Getenv(envRank) != "" {
		b.Skip()
	}
	self, err := os.Executable()
	require.NoError(b, err)
	for _, world := range []int{2, 3, 4} {
		b.Run(fmt.Sprintf("ranks=%d", world), func(b *testing.B) { benchProcesses(b, self, world) })
	}
}

func benchProcesses(b *testing.B, self string, world int) {
	for b.Loop() {
		var addrs []string
		for range world {
			l, err := tcp.Listen("127.0.0.1:0", tcp.Config{})
			require.NoError(b, err)
			addrs = append(addrs, l.Addr())
			require.NoError(b, l.Close())
		}
		var ranks []*exec.Cmd
		for r := range world {
			c := exec.Command(self, "-test.run=^$")
			c.Env = append(os.Environ(), envRank+"="+strconv.Itoa(r), envAddrs+"="+strings.Join(addrs, ","))
			c.Stdout, c.Stderr = os.Stdout, os.Stderr
			require.NoError(b, c.Start())
			ranks = append(ranks, c)
		}
		for _, c := range ranks {
			require.NoError(b, c.Wait())
		}
	}
}

// benchRank is main for a process that BenchmarkProcesses started.
func benchRank(rank int, addrs []string) error {
	ctx := context.Background()
	l, err := tcp.Listen(addrs[rank], tcp.Config{})
	if err != nil {
		return err
	}
	defer l.Close()
	tr, err := l.Connect(ctx, tcp.ID{Job: "bench", Generation: 1, Rank: rank}, addrs)
	if err != nil {
		return err
	}
	g := collective.New(tr)
	defer g.Close()
	for _, op := range operations {
		for _, size := range benchSizes {
			if err := benchSize(ctx, g, op, size); err != nil {
				return err
			}
		}
	}
	return nil
}

func benchSize(ctx context.Context, g *collective.Group, op operation, size int) error {
	repeat := min(max(int(time.Second)/(size+500_000)/3, 20), 1000)
	run := op.of(g, make([]float32, size/4))
	took := make([]float32, repeat)
	for i := range repeat + 5 {
		if err := g.Barrier(ctx); err != nil {
			return err
		}
		start := time.Now()
		if err := run(ctx); err != nil {
			return err
		}
		if i >= 5 {
			took[i-5] = float32(time.Since(start).Seconds() * 1e6)
		}
	}
	slowest := make([]byte, g.World()*4*repeat)
	if err := g.AllGather(ctx, collective.Of(slowest), collective.Of(float32Bytes(took))); err != nil {
		return err
	}
	if g.Rank() != 0 {
		return nil
	}
	all := bytesFloat32(slowest)
	for i := range took {
		for r := 1; r < g.World(); r++ {
			took[i] = max(took[i], all[r*repeat+i])
		}
	}
	slices.Sort(took)
	median := took[len(took)/2]
	bus := float64(size) * 2 * float64(g.World()-1) / float64(g.World()) / float64(median) / 1e3
	fmt.Printf("%-22s ranks %d  %4s  best %9.1f  median %9.1f  p95 %9.1f us  busbw %6.2f GB/s\n", op.name, g.World(), sizeName(size), took[0], median, took[len(took)*95/100], bus)
	return nil
}
