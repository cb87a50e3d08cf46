package collectivetest

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/farandole-ml/farandole/collective"
	"github.com/farandole-ml/farandole/collective/transport"
	"github.com/farandole-ml/farandole/elastic"
)

// envAbort marks a process that Aborts started, and has its rank.
const envAbort = "FARANDOLE_TEST_ABORT"

// abortOrder is what the parent tells a rank: to form a group and run operations, or how to end.
type abortOrder struct {
	Gen   elastic.Generation
	Rank  int
	Addrs []string
	Bytes int
	Do    string // one of abortKinds for the rank that it happens to
}

// abortReport is a rank's answer.
type abortReport struct {
	Addr    string
	Running bool
	Struck  int64 // when it began to end the group itself, in Unix nanoseconds
	Ended   int64 // when its operation returned
	Blamed  int   // the peer that the error names, or -1
	Err     string
}

// abortLimit is the deadline of a group that shall meet one.
const abortLimit = 30 * time.Millisecond

// abortKinds are the ways to end a group.
var abortKinds = []string{"kill", "cancel", "deadline", "generation"}

// AbortRank makes this process a rank of Aborts if it was started as one, and does not return then. Call it first in
// TestMain of a package that uses Aborts.
func AbortRank(listen func(rank int) (Listener, error)) {
	rank, err := strconv.Atoi(os.Getenv(envAbort))
	if err != nil {
		return
	}
	if err := abortRank(func() (Listener, error) { return listen(rank) }); err != nil && !errors.Is(err, io.EOF) {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func abortRank(listen func() (Listener, error)) error {
	l, err := listen()
	if err != nil {
		return err
	}
	defer l.Close()
	in, out := json.NewDecoder(bufio.NewReader(os.Stdin)), json.NewEncoder(os.Stdout)
	if err := out.Encode(abortReport{Addr: l.Addr()}); err != nil {
		return err
	}
	for {
		var order abortOrder
		if err := in.Decode(&order); err != nil {
			return err
		}
		if err := abortRound(l, order, in, out); err != nil {
			return err
		}
	}
}

// abortRound runs all-reduces until one fails.
func abortRound(l Listener, order abortOrder, in *json.Decoder, out *json.Encoder) error {
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	fctx, stop := context.WithTimeout(ctx, Patience)
	defer stop()
	tr, err := l.Connect(fctx, transport.ID{Job: "aborts", Generation: order.Gen, Rank: order.Rank}, order.Addrs)
	if err != nil {
		return err
	}
	g := collective.New(tr)
	defer g.Close()
	limit := time.Now().Add(abortLimit)
	if order.Do == "deadline" {
		var stop context.CancelFunc
		ctx, stop = context.WithDeadline(ctx, limit)
		defer stop()
	}
	ended := make(chan abortReport, 1)
	running := make(chan struct{})
	go func() {
		b := collective.Of(make([]float32, order.Bytes/4))
		err := g.AllReduce(ctx, b, b, collective.Sum)
		close(running)
		for err == nil {
			err = g.AllReduce(ctx, b, b, collective.Sum)
		}
		r := abortReport{Ended: time.Now().UnixNano(), Blamed: -1, Err: err.Error()}
		var pe *collective.PeerError
		if errors.As(err, &pe) {
			r.Blamed = pe.Rank
		}
		ended <- r
	}()
	<-running
	if err := out.Encode(abortReport{Running: true}); err != nil {
		return err
	}
	var strike abortOrder
	if err := in.Decode(&strike); err != nil {
		return err
	}
	struck := time.Now()
	switch strike.Do {
	case "cancel":
		cancel(errTest)
	case "deadline":
		struck = limit
	case "generation":
		l.Fence(order.Gen + 1)
		cancel(fmt.Errorf("generation %d is due: %w", order.Gen+1, collective.ErrGenerationChanged))
	}
	r := <-ended
	r.Struck = struck.UnixNano()
	return out.Encode(r)
}

// abortProcess is a rank as its parent sees it.
type abortProcess struct {
	cmd  *exec.Cmd
	addr string
	to   io.WriteCloser
	out  *json.Encoder
	in   *json.Decoder
}

func startAbort(t testing.TB, rank int) *abortProcess {
	self, err := os.Executable()
	require.NoError(t, err)
	p := &abortProcess{cmd: exec.Command(self, "-test.run=^$")}
	p.cmd.Env = append(os.Environ(), envAbort+"="+strconv.Itoa(rank))
	p.cmd.Stderr = os.Stderr
	to, err := p.cmd.StdinPipe()
	require.NoError(t, err)
	from, err := p.cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, p.cmd.Start())
	p.to, p.out, p.in = to, json.NewEncoder(to), json.NewDecoder(bufio.NewReader(from))
	p.addr = p.read(t).Addr
	return p
}

func (p *abortProcess) read(t testing.TB) (r abortReport) {
	require.NoError(t, p.in.Decode(&r))
	return r
}

func (p *abortProcess) end() {
	p.to.Close()
	_ = p.cmd.Wait()
}

// Aborts ends groups of four processes rounds times: a process is killed, a context cancelled, a deadline met or a generation
// fenced on one rank while all run operations. It checks that every other rank's operation ends and names a peer, one of
// them the right one, and gives how long each took from the blow on.
func Aborts(t testing.TB, rounds int) []time.Duration {
	const world = 4
	rng := rand.New(rand.NewPCG(1, 2))
	ranks := make([]*abortProcess, world)
	addrs := make([]string, world)
	defer func() {
		for _, p := range ranks {
			if p != nil {
				p.end()
			}
		}
	}()
	var took []time.Duration
	for round := range rounds {
		for r := range ranks {
			if ranks[r] == nil {
				ranks[r] = startAbort(t, r)
			}
			addrs[r] = ranks[r].addr
		}
		kind, victim := abortKinds[round%len(abortKinds)], rng.IntN(world)
		order := abortOrder{Gen: elastic.Generation(round + 1), Addrs: addrs, Bytes: []int{1 << 10, 1 << 20}[round/len(abortKinds)%2]}
		for r, p := range ranks {
			if order.Rank, order.Do = r, ""; r == victim {
				order.Do = kind
			}
			require.NoError(t, p.out.Encode(order))
		}
		for r, p := range ranks {
			require.True(t, p.read(t).Running, "rank %d", r)
		}
		time.Sleep(time.Duration(rng.Int64N(int64(3 * time.Millisecond)))) // a random place in an operation
		took = append(took, abort(t, ranks, victim, kind)...)
	}
	return took
}

// abort strikes one rank and gives how long the others took to end.
func abort(t testing.TB, ranks []*abortProcess, victim int, kind string) (took []time.Duration) {
	struck := time.Now().UnixNano()
	if kind == "kill" {
		require.NoError(t, ranks[victim].cmd.Process.Kill())
		ranks[victim].end()
	} else {
		require.NoError(t, ranks[victim].out.Encode(abortOrder{Do: kind}))
		own := ranks[victim].read(t)
		struck = own.Struck
		took = append(took, time.Duration(own.Ended-struck))
	}
	right := 0
	for r, p := range ranks {
		if r == victim {
			continue
		}
		require.NoError(t, p.out.Encode(abortOrder{Do: "wait"}))
		report := p.read(t)
		require.NotEqual(t, -1, report.Blamed, "%s: rank %d names nobody: %s", kind, r, report.Err)
		require.NotEqual(t, r, report.Blamed, "%s: rank %d blames itself: %s", kind, r, report.Err)
		if report.Blamed == victim {
			right++
		}
		took = append(took, time.Duration(report.Ended-struck))
	}
	require.Positive(t, right, "%s of rank %d: nobody names it", kind, victim)
	if kind == "kill" {
		ranks[victim] = nil
	}
	return took
}

// AbortTimes runs Aborts and reports percentiles of the times as metrics of the benchmark.
func AbortTimes(b *testing.B) {
	var took []time.Duration
	for b.Loop() {
		took = append(took, Aborts(b, 100)...)
	}
	slices.Sort(took)
	for name, share := range map[string]float64{"p50-ms": 0.5, "p99-ms": 0.99, "max-ms": 1} {
		b.ReportMetric(took[min(int(share*float64(len(took))), len(took)-1)].Seconds()*1e3, name)
	}
	b.ReportMetric(float64(b.N*100), "aborts")
}
