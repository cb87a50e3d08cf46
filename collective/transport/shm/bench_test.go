//go:build linux

package shm

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"

	"github.com/farandole-ml/farandole/collective"
	"github.com/farandole-ml/farandole/collective/transport"
	"github.com/farandole-ml/farandole/elastic"
)

// The environment of a process that is one rank of BenchmarkProcesses.
const (
	envRank  = "FARANDOLE_SHM_RANK"
	envAddrs = "FARANDOLE_SHM_ADDRS"
)

// envSizes and envRanks choose what BenchmarkProcesses measures: "1K,64M", "2,4".
const (
	envSizes = "FARANDOLE_SHM_SIZES"
	envRanks = "FARANDOLE_SHM_RANKS"
)

var (
	defaultSizes = "1K,64K,1M,16M,64M"
	defaultRanks = "2,4"
)

// BenchmarkProcesses has each rank in a process of its own, as the peers' benchmarks do, and prints its own table: the median
// over the repetitions of the slowest rank's time, small operations in batches of 20. Run it with -benchtime=1x.
func BenchmarkProcesses(b *testing.B) {
	if os.Getenv(envRank) != "" {
		b.Skip()
	}
	self, err := os.Executable()
	require.NoError(b, err)
	for _, field := range strings.Split(envOr(envRanks, defaultRanks), ",") {
		world, err := strconv.Atoi(field)
		require.NoError(b, err)
		var addrs []string
		for r := range world {
			addrs = append(addrs, fmt.Sprintf("@farandole-bench-%d-%d-%d", os.Getpid(), world, r))
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

func envOr(name, otherwise string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return otherwise
}

// benchRank is main for a process that BenchmarkProcesses started.
func benchRank(rank int, addrs []string) error {
	ctx := context.Background()
	l, err := Listen(addrs[rank], Config{})
	if err != nil {
		return err
	}
	defer l.Close()
	tr, err := l.Connect(ctx, transport.ID{Job: "bench", Generation: 1, Rank: rank}, addrs)
	if err != nil {
		return err
	}
	g := collective.New(tr)
	defer g.Close()
	for _, field := range strings.Split(envOr(envSizes, defaultSizes), ",") {
		size, err := parseSize(field)
		if err != nil {
			return err
		}
		for _, registered := range []bool{true, false} {
			for _, kind := range []collective.OpKind{collective.OpAllReduce, collective.OpReduceTree} {
				if err := benchOne(ctx, g, kind, size, registered); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func parseSize(s string) (int, error) {
	shift := strings.Index("_KM", s[len(s)-1:]) * 10
	n, err := strconv.Atoi(strings.TrimRight(s, "KM"))
	return n << max(shift, 0), err
}

func benchOne(ctx context.Context, g *collective.Group, kind collective.OpKind, size int, registered bool) error {
	memory := make([]byte, size)
	if registered {
		var err error
		if memory, err = g.Alloc(size); err != nil {
			return err
		}
		defer g.Free(memory)
	}
	x := floatsOf(memory)
	c := collective.Call{Kind: kind, Out: collective.Of(x), In: collective.Of(x)}
	if kind == collective.OpReduceTree {
		c.Ranges, c.Shards = elastic.Assign(g.World(), g.World()), g.World()
		c.Partials = []collective.Partial{{Node: c.Ranges[g.Rank()], Data: x}}
	}
	batch := 1
	if size <= 64<<10 {
		batch = 20
	}
	took, err := measure(ctx, g, &c, batch)
	if err != nil || g.Rank() != 0 {
		return err
	}
	median := took[len(took)/2]
	fmt.Printf("%-11v ranks %d  %9d bytes  registered %-5v  best %9.2f  median %9.2f  p95 %9.2f us  busbw %6.2f GB/s\n",
		kind, g.World(), size, registered, took[0], median, took[len(took)*95/100],
		float64(size)*2*float64(g.World()-1)/float64(g.World())/median/1e3)
	return nil
}

// measure gives the sorted times, in microseconds, of the slowest rank.
func measure(ctx context.Context, g *collective.Group, c *collective.Call, batch int) ([]float64, error) {
	const warm, budget, most = 5, 500 * time.Millisecond, 2000
	took := make([]float64, most)
	repeat := []int32{warm}
	for i := 0; i < warm+int(repeat[0]); i++ {
		if err := g.Barrier(ctx); err != nil {
			return nil, err
		}
		start := time.Now()
		for range batch {
			if err := g.Do(ctx, c); err != nil {
				return nil, err
			}
		}
		elapsed := time.Since(start)
		if i < warm {
			repeat[0] = int32(min(max(budget/(elapsed+1), 10), most))
			if err := g.Broadcast(ctx, collective.Of(repeat), 0); err != nil {
				return nil, err
			}
			continue
		}
		took[i-warm] = elapsed.Seconds() * 1e6 / float64(batch)
	}
	took = took[:repeat[0]]
	err := g.AllReduce(ctx, collective.Of(took), collective.Of(took), collective.Max)
	slices.Sort(took)
	return took, err
}

func floatsOf(b []byte) []float32 {
	return unsafe.Slice((*float32)(unsafe.Pointer(unsafe.SliceData(b))), len(b)/4)
}

// BenchmarkAlone is what an operation costs beside the waiting and the transfers: a group of one.
func BenchmarkAlone(b *testing.B) {
	g := collective.New(connected(b, 1)[0])
	defer g.Close()
	x := collective.Of(make([]float32, 256))
	for _, c := range []collective.Call{
		{Kind: collective.OpBarrier},
		{Kind: collective.OpAllReduce, Out: x, In: x},
	} {
		b.Run(c.Kind.String(), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := g.Do(context.Background(), &c); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
