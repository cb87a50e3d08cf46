package agent

import (
	"context"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"google.golang.org/grpc"

	pb "github.com/farandole-ml/farandole/coordinator/coordinatorpb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeCoordinator gives a test both ends of Serve.
type fakeCoordinator struct {
	pb.UnimplementedCoordinatorServer
	got  chan *pb.AgentMessage
	send chan *pb.AgentCommand
}

func (f *fakeCoordinator) Serve(st pb.Coordinator_ServeServer) error {
	go func() {
		for {
			m, err := st.Recv()
			if err != nil {
				return
			}
			f.got <- m
		}
	}()
	for {
		select {
		case c := <-f.send:
			if err := st.Send(c); err != nil {
				return err
			}
		case <-st.Context().Done():
			return nil
		}
	}
}

func serveFake(t *testing.T, addr string) (*fakeCoordinator, string, func()) {
	t.Helper()
	lis, err := net.Listen("tcp", addr)
	require.NoError(t, err)
	f := &fakeCoordinator{got: make(chan *pb.AgentMessage, 1000), send: make(chan *pb.AgentCommand)}
	gs := grpc.NewServer()
	pb.RegisterCoordinatorServer(gs, f)
	done := make(chan struct{})
	go func() { defer close(done); _ = gs.Serve(lis) }()
	stop := func() { gs.Stop(); <-done }
	t.Cleanup(stop)
	return f, lis.Addr().String(), stop
}

func startAgent(t *testing.T, addr string) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Run(ctx, Config{Coordinator: addr, ID: "a", Host: "h", Slots: 4, LogDir: t.TempDir()}) }()
	stopped := false
	stop = func() {
		if !stopped {
			stopped = true
			cancel()
			require.NoError(t, <-done)
		}
	}
	t.Cleanup(stop)
	return stop
}

// next gives the next message that pick accepts; others are passed over.
func next[T any](t *testing.T, f *fakeCoordinator, pick func(*pb.AgentMessage) *T) *T {
	t.Helper()
	limit := time.After(20 * time.Second) // a bound for a hung test, not an expectation
	for {
		select {
		case m := <-f.got:
			if v := pick(m); v != nil {
				return v
			}
		case <-limit:
			require.FailNow(t, "no such message")
		}
	}
}

func (f *fakeCoordinator) spawn(member string, argv ...string) {
	f.send <- &pb.AgentCommand{Of: &pb.AgentCommand_Spawn{Spawn: &pb.Spawn{
		Job: "j", Member: member, Spec: &pb.JobSpec{Command: argv}}}}
}

func TestSpawnKillAndTail(t *testing.T) {
	f, addr, _ := serveFake(t, "127.0.0.1:0")
	startAgent(t, addr)
	hello := next(t, f, (*pb.AgentMessage).GetHello)
	require.EqualValues(t, 4, hello.Slots)

	f.spawn("m", "sh", "-c", "echo $FARANDOLE_MEMBER on $FARANDOLE_HOST; echo oops >&2; exec sleep 1000")
	require.NotZero(t, next(t, f, (*pb.AgentMessage).GetStarted).Pid)
	seen := map[string]bool{}
	for len(seen) < 2 {
		for _, l := range next(t, f, (*pb.AgentMessage).GetLogs).Lines {
			seen[l] = true
		}
	}
	require.Equal(t, map[string]bool{"m on h": true, "oops": true}, seen)
	f.send <- &pb.AgentCommand{Of: &pb.AgentCommand_Signal{Signal: &pb.Signal{Job: "j", Member: "m", Signal: "KILL"}}}
	inj := next(t, f, (*pb.AgentMessage).GetInjected)
	ex := next(t, f, (*pb.AgentMessage).GetExited)
	require.Equal(t, "killed", ex.Signal)
	require.ElementsMatch(t, []string{"m on h", "oops"}, ex.Tail)
	require.GreaterOrEqual(t, ex.UnixNanos, inj.UnixNanos)
}

func TestExitCodesAndMissingPrograms(t *testing.T) {
	f, addr, _ := serveFake(t, "127.0.0.1:0")
	startAgent(t, addr)
	next(t, f, (*pb.AgentMessage).GetHello)
	f.spawn("a", "sh", "-c", "exit 7")
	require.EqualValues(t, 7, next(t, f, (*pb.AgentMessage).GetExited).Code)
	f.spawn("b", "./no-such-program")
	require.Contains(t, next(t, f, (*pb.AgentMessage).GetExited).Error, "no such file")
}

func TestGrandchildrenDoNotOutliveTheWorker(t *testing.T) {
	f, addr, _ := serveFake(t, "127.0.0.1:0")
	startAgent(t, addr)
	next(t, f, (*pb.AgentMessage).GetHello)
	f.spawn("m", "sh", "-c", "sleep 1000 & echo $!; exit 0")
	var pid int
	for _, l := range next(t, f, (*pb.AgentMessage).GetLogs).Lines {
		for _, c := range l {
			pid = pid*10 + int(c-'0')
		}
	}
	next(t, f, (*pb.AgentMessage).GetExited)
	require.Eventually(t, func() bool { return !alive(pid) }, 20*time.Second, time.Millisecond)
}

func TestAgentOutlivesTheCoordinator(t *testing.T) {
	f, addr, stop := serveFake(t, "127.0.0.1:0")
	stopAgent := startAgent(t, addr)
	next(t, f, (*pb.AgentMessage).GetHello)
	f.spawn("m", "sleep", "1000")
	pid := next(t, f, (*pb.AgentMessage).GetStarted).Pid
	stop()
	f, _, _ = serveFake(t, addr)
	h := next(t, f, (*pb.AgentMessage).GetHello)
	require.Len(t, h.Running, 1)
	require.Equal(t, pid, h.Running[0].Pid)
	stopAgent()
	require.False(t, alive(int(pid)), "nothing is left running when the agent ends")
}

// A program's first lines can be there before the news of its start is: they wait for it.
func TestFirstLinesFollowTheStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &Agent{wake: make(chan struct{}, 1)}
		p := &proc{job: "j", member: "m", announced: make(chan struct{})}
		go a.copyLines(p, strings.NewReader("quick\n"), false, nil)
		synctest.Wait()
		require.Empty(t, a.take())
		close(p.announced)
		synctest.Wait()
		told := a.take()
		require.Len(t, told, 1)
		require.Equal(t, []string{"quick"}, told[0].GetLogs().GetLines())
	})
}

func alive(pid int) bool {
	p, err := os.FindProcess(pid)
	return err == nil && p.Signal(syscall.Signal(0)) == nil
}
