package auto

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/farandole-ml/farandole/collective"
	"github.com/farandole-ml/farandole/collective/transport"
	"github.com/farandole-ml/farandole/elastic"
)

// The soak runs mixed operations of random sizes, types and reductions among processes, checks every result, and
// again and again lets a process die or a group end in the middle: every other rank must notice within abortLimit, name
// the rank where one is to blame, and form the next group with a newcomer. At the end nothing has leaked.

var (
	soakOps   = flag.Int("soak.ops", 4000, "operations of the soak, over all its groups, on each path")
	soakWorld = flag.Int("soak.ranks", 4, "processes of the soak")
	soakSeed  = flag.Uint64("soak.seed", 1, "seed of the soak")
	soakPaths = flag.String("soak.paths", "shm,uds,tcp", "paths of the soak")
)

// abortLimit is what the 99th percentile of the times between an end and a rank's notice of it must stay below.
const abortLimit = 250 * time.Millisecond

// soakTask is what a rank is told to do: form a group and run operations until something ends it.
type soakTask struct {
	Generation elastic.Generation
	Rank       int
	Addrs      []string
	Seed       uint64
	Ops        int // then the group is closed
	Cancel     int // cancel the context in operation number Cancel; 0: never
}

// soakNews is what a rank tells.
type soakNews struct {
	Addr  string // once, at the beginning
	Ops   int    // completed
	Wrong int
	Err   string
	Blame int       // the rank that the error names, or -1
	Ended time.Time // zero: the group is formed
	Files int       // open descriptors after the group is closed
	Maps  int       // mappings of shared memory
}

// soakRank is a process of the soak.
type soakRank struct {
	cmd  *exec.Cmd
	in   io.WriteCloser
	news *json.Decoder
	addr string

	files, maps int // after the first group
}

func startSoakRank(t *testing.T, path Path) *soakRank {
	exe, err := os.Executable()
	require.NoError(t, err)
	r := &soakRank{cmd: exec.Command(exe)}
	r.cmd.Env = append(os.Environ(), "SOAK_PATH="+string(path))
	r.cmd.Stderr = os.Stderr
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	r.in, err = r.cmd.StdinPipe()
	require.NoError(t, err)
	out, err := r.cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, r.cmd.Start())
	r.news = json.NewDecoder(out)
	r.addr = r.hear(t).Addr
	return r
}

func (r *soakRank) tell(t *testing.T, task soakTask) {
	require.NoError(t, json.NewEncoder(r.in).Encode(task))
}

func (r *soakRank) hear(t *testing.T) (n soakNews) {
	timer := time.AfterFunc(patience, func() { _ = r.cmd.Process.Signal(syscall.SIGQUIT) }) // a hang shows its stacks
	defer timer.Stop()
	require.NoError(t, r.news.Decode(&n), "a rank ended or hung")
	return n
}

func (r *soakRank) kill() {
	_ = r.cmd.Process.Kill()
	_ = r.cmd.Wait()
}

func TestSoak(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes")
	}
	for _, path := range strings.Split(*soakPaths, ",") {
		t.Run(path, func(t *testing.T) { soak(t, Path(path)) })
	}
}

func soak(t *testing.T, path Path) {
	random := rand.New(rand.NewPCG(*soakSeed, 0))
	world := *soakWorld
	ranks := make([]*soakRank, world)
	t.Cleanup(func() {
		for _, r := range ranks {
			if r != nil {
				r.kill()
			}
		}
	})
	var notices []time.Duration
	done, groups, ends := 0, 0, map[string]int{}
	for gen := elastic.Generation(1); done < *soakOps; gen++ {
		addrs := make([]string, world)
		for i := range ranks {
			if ranks[i] == nil {
				ranks[i] = startSoakRank(t, path)
			}
			addrs[i] = ranks[i].addr
		}
		left := *soakOps - done
		task := soakTask{Generation: gen, Addrs: addrs, Seed: random.Uint64(), Ops: min(left, 200+random.IntN(4000))}
		victim, how := random.IntN(world), []string{"kill", "cancel", "close"}[random.IntN(3)]
		at := 1 + random.IntN(task.Ops)
		for i, r := range ranks {
			task.Rank, task.Cancel = i, 0
			if how == "cancel" && i == victim {
				task.Cancel = at
			}
			r.tell(t, task)
		}
		for i, r := range ranks {
			n := r.hear(t)
			require.Empty(t, n.Err, "rank %d of generation %d does not form", i, gen)
		}
		var killed time.Time
		if how == "kill" {
			time.Sleep(time.Duration(random.Int64N(int64(time.Duration(task.Ops) * 50 * time.Microsecond))))
			killed = time.Now()
			require.NoError(t, ranks[victim].cmd.Process.Kill())
		}
		all := make([]*soakNews, world)
		for i, r := range ranks {
			if how == "kill" && i == victim {
				r.kill()
				ranks[i] = nil
				continue
			}
			n := r.hear(t)
			all[i] = &n
			require.Zero(t, n.Wrong, "rank %d of generation %d: wrong results, seed %d", i, gen, task.Seed)
		}
		began := killed
		if how == "cancel" {
			began = all[victim].Ended
		}
		fewest := task.Ops
		for i, n := range all {
			if n == nil {
				continue
			}
			fewest = min(fewest, n.Ops)
			if n.Err == "" { // it had finished all before
				continue
			}
			require.NotEqual(t, "close", how, "rank %d of generation %d: %s", i, gen, n.Err)
			if i != victim {
				require.Equal(t, victim, n.Blame, "rank %d of generation %d blames another than %s %d: %s", i, gen, how, victim, n.Err)
			}
			notices = append(notices, n.Ended.Sub(began))
			requireNoLeak(t, ranks[i], n)
		}
		done += fewest
		groups++
		ends[how]++
	}
	if len(notices) > 0 {
		sort.Slice(notices, func(i, j int) bool { return notices[i] < notices[j] })
		p99 := notices[len(notices)*99/100]
		t.Logf("%s: %d operations in %d groups (%v) of %d ranks; an end was noticed after %v (median), %v (p99), %v (max) of %d",
			path, done, groups, ends, world, notices[len(notices)/2], p99, notices[len(notices)-1], len(notices))
		require.Less(t, p99, abortLimit)
	}
}

// requireNoLeak compares what a process holds after a group's end with what it held after its first group's.
func requireNoLeak(t *testing.T, r *soakRank, n *soakNews) {
	if r.files == 0 {
		r.files, r.maps = n.Files, n.Maps
	}
	require.LessOrEqual(t, n.Files, r.files+soakSlack, "descriptors")
	require.LessOrEqual(t, n.Maps, r.maps+soakSlack, "mappings of shared memory")
}

// soakSlack is for descriptors of the runtime's own, such as of its poller.
const soakSlack = 3

// soakMain is a rank's process.
func soakMain() {
	in := bufio.NewReader(os.Stdin)
	out := json.NewEncoder(os.Stdout)
	l, err := Listen("127.0.0.1:0", Config{Path: Path(os.Getenv("SOAK_PATH")), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		panic(err)
	}
	_ = out.Encode(soakNews{Addr: l.Addr(), Blame: -1})
	tasks := json.NewDecoder(in)
	for {
		var t soakTask
		if tasks.Decode(&t) != nil {
			return
		}
		_ = out.Encode(soakGroup(l, t, func() { _ = out.Encode(soakNews{Blame: -1}) }))
	}
}

func soakGroup(l *Listener, t soakTask, formed func()) (n soakNews) {
	n.Blame = -1
	fail := func(err error) soakNews {
		n.Err, n.Ended = err.Error(), time.Now()
		var pe *collective.PeerError
		if errors.As(err, &pe) {
			n.Blame = pe.Rank
		}
		return n
	}
	defer func() { n.Files, n.Maps = soakHeld() }()
	l.Fence(t.Generation)
	ctx, cancel := context.WithTimeout(context.Background(), patience/2)
	defer cancel()
	tr, err := l.Connect(ctx, transport.ID{Job: "soak", Generation: t.Generation, Rank: t.Rank}, t.Addrs)
	if err != nil {
		return fail(err)
	}
	formed()
	g := collective.New(tr)
	defer g.Close()
	random := rand.New(rand.NewPCG(t.Seed, 1)) // the same on all ranks
	work := newSoakWork(g, t.Rank, len(t.Addrs))
	defer work.free()
	for n.Ops < t.Ops {
		burst := min(1+random.IntN(3), t.Ops-n.Ops) // several in flight
		var calls []*soakCall
		for i := range burst {
			calls = append(calls, work.plan(random, i))
		}
		octx := ctx
		if t.Cancel > 0 && n.Ops+burst >= t.Cancel {
			c, stop := context.WithCancel(ctx)
			octx = c
			time.AfterFunc(time.Duration(t.Seed%300)*time.Microsecond, stop)
		}
		for _, c := range calls {
			if burst > 1 {
				c.handle = g.Start(octx, c.call)
			}
		}
		for _, c := range calls {
			if c.handle != nil {
				err = c.handle.Wait()
			} else {
				err = g.Do(octx, &c.call)
			}
			if err != nil {
				return fail(err)
			}
			if !c.right() {
				n.Wrong++
			}
			n.Ops++
		}
		if octx != ctx { // it must end, if not before then now
			<-octx.Done()
			if err := g.Barrier(octx); err != nil {
				return fail(err)
			}
		}
	}
	n.Ended = time.Now()
	if err := g.Barrier(ctx); err != nil { // nobody leaves while another still needs it
		return fail(err)
	}
	return n
}

// soakHeld counts open descriptors and mappings of shared memory.
func soakHeld() (files, maps int) {
	fds, _ := filepath.Glob("/proc/self/fd/*")
	text, _ := os.ReadFile("/proc/self/maps")
	return len(fds), strings.Count(string(text), "memfd:farandole")
}
