package coordinator

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	pb "github.com/farandole-ml/farandole/coordinator/coordinatorpb"
	"github.com/farandole-ml/farandole/elastic"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// life is one run of a coordinator; stop ends it as a crash would: nothing is said to anybody.
type life struct {
	t    *testing.T
	cc   *grpc.ClientConn
	cl   pb.CoordinatorClient
	addr string
	stop func()
}

func start(t *testing.T, dir, addr string) *life {
	t.Helper()
	return startWith(t, Config{Listen: addr, StateDir: dir})
}

func startWith(t *testing.T, cfg Config) *life {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ready, done := make(chan string, 1), make(chan error, 1)
	go func() {
		cfg.Ready = func(a string) { ready <- a }
		done <- Run(ctx, cfg)
	}()
	var addr string
	select {
	case addr = <-ready:
	case err := <-done:
		cancel()
		require.NoError(t, err)
	}
	cc, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	l := &life{t: t, cc: cc, cl: pb.NewCoordinatorClient(cc), addr: addr}
	stopped := false
	l.stop = func() {
		if !stopped {
			stopped = true
			cc.Close()
			cancel()
			require.NoError(t, <-done)
		}
	}
	t.Cleanup(l.stop)
	return l
}

// fakeWorker speaks the worker's side of Attach by hand.
type fakeWorker struct {
	t  *testing.T
	id string
	st pb.Coordinator_AttachClient
}

var testPlan = &pb.Plan{Shards: 8, Steps: 100, Seed: 1, SamplesPerStep: 8, Program: "test"}

func (l *life) attach(ctx context.Context, job, id string, f *pb.Fence) *fakeWorker {
	l.t.Helper()
	st, err := l.cl.Attach(ctx)
	require.NoError(l.t, err)
	w := &fakeWorker{t: l.t, id: id, st: st}
	w.send(&pb.WorkerMessage{Of: &pb.WorkerMessage_Hello{Hello: &pb.Hello{
		Job: job, Member: &pb.Member{Id: id, Addr: "127.0.0.1:1", Host: "h", Class: "f32"}, Fence: f, Plan: testPlan}}})
	require.NotNil(l.t, w.recv().GetWelcome())
	return w
}

func (w *fakeWorker) send(m *pb.WorkerMessage) {
	w.t.Helper()
	require.NoError(w.t, w.st.Send(m))
}

func (w *fakeWorker) recv() *pb.WorkerCommand {
	w.t.Helper()
	m, err := w.st.Recv()
	require.NoError(w.t, err)
	return m
}

// joinAll answers Prepare for all workers until their view comes.
func joinAll(t *testing.T, ws ...*fakeWorker) *pb.View {
	t.Helper()
	views := make(chan *pb.View, len(ws))
	for _, w := range ws {
		go func() { views <- w.join(&pb.Fence{HoldsState: true}) }()
	}
	v := <-views
	for range ws[1:] {
		require.Equal(t, v.Generation, (<-views).Generation)
	}
	return v
}

func (w *fakeWorker) join(f *pb.Fence) *pb.View {
	w.t.Helper()
	for {
		m := w.recv()
		if p := m.GetPrepare(); p != nil {
			f.Generation = p.Generation
			w.send(&pb.WorkerMessage{Of: &pb.WorkerMessage_Fenced{Fenced: &pb.Fenced{Generation: p.Generation, Fence: f}}})
			continue
		}
		require.NotNil(w.t, m.GetView(), "got %v", m)
		w.send(&pb.WorkerMessage{Of: &pb.WorkerMessage_Formed{Formed: &pb.Formed{Generation: m.GetView().Generation}}})
		return m.GetView()
	}
}

func (w *fakeWorker) beat(gen uint64, step int64) {
	w.send(&pb.WorkerMessage{Of: &pb.WorkerMessage_Heartbeat{Heartbeat: &pb.Heartbeat{
		Generation: gen, Applied: step, AppliedUnixNanos: time.Now().UnixNano(), FirstUnixNanos: time.Now().UnixNano()}}})
}

func submit(t *testing.T, l *life, sp *pb.JobSpec) string {
	t.Helper()
	sp.Command = []string{"prog"}
	r, err := l.cl.Submit(t.Context(), &pb.SubmitRequest{Spec: sp})
	require.NoError(t, err)
	return r.Job
}

func TestJobRunsToItsEnd(t *testing.T) {
	l := start(t, t.TempDir(), "127.0.0.1:0")
	job := submit(t, l, &pb.JobSpec{Min: 2, Start: 2, LivenessNanos: int64(time.Minute)})
	fresh := func() *pb.Fence { return &pb.Fence{HoldsState: true} }
	a := l.attach(t.Context(), job, "a", fresh())
	b := l.attach(t.Context(), job, "b", fresh())
	va := joinAll(t, a, b)
	require.Len(t, va.Roster, 2)
	require.EqualValues(t, 0, va.Resume)
	for _, w := range []*fakeWorker{a, b} {
		w.beat(va.Generation, 100)
		w.send(&pb.WorkerMessage{Of: &pb.WorkerMessage_Finished{Finished: &pb.Finished{
			Generation: va.Generation, Step: 100, Loss: 0.5, WeightsSha256: "aa"}}})
	}
	require.EqualValues(t, 0, a.recv().GetEnded().GetCode())
	end := lastEvent(t, l, job).GetEnded()
	require.Equal(t, "done", end.Status)
	require.Equal(t, "aa", end.WeightsSha256)
	require.EqualValues(t, 100, end.Steps)
	require.NoError(t, elastic.VerifyLedger(termsOf(end.Ledger), 100))
}

// What a program prints at its very end is told before the end of the job is.
func TestLastLinesComeBeforeTheEnd(t *testing.T) {
	l := start(t, t.TempDir(), "127.0.0.1:0")
	job := submit(t, l, &pb.JobSpec{Min: 1, Start: 1, LivenessNanos: int64(time.Minute)})
	agent, err := l.cl.Serve(t.Context())
	require.NoError(t, err)
	say := func(m *pb.AgentMessage) { require.NoError(t, agent.Send(m)) }
	say(&pb.AgentMessage{Of: &pb.AgentMessage_Hello{Hello: &pb.AgentHello{Id: "x", Host: "h", Slots: 1}}})
	var id string
	for id == "" {
		c, err := agent.Recv()
		require.NoError(t, err)
		id = c.GetSpawn().GetMember()
	}
	w := l.attach(t.Context(), job, id, &pb.Fence{HoldsState: true})
	v := w.join(&pb.Fence{HoldsState: true})
	w.beat(v.Generation, 100)
	w.send(&pb.WorkerMessage{Of: &pb.WorkerMessage_Finished{Finished: &pb.Finished{
		Generation: v.Generation, Step: 100, Loss: 0.5, WeightsSha256: "aa"}}})
	require.NotNil(t, w.recv().GetEnded())
	_, err = l.cl.Jobs(t.Context(), &pb.JobsRequest{}) // answered after the job has ended
	require.NoError(t, err)
	watch, err := l.cl.Watch(t.Context(), &pb.WatchRequest{Job: job, Logs: true})
	require.NoError(t, err)
	told := func() *pb.JobEvent {
		e, err := watch.Recv()
		require.NoError(t, err)
		return e
	}
	for told().GetView() == nil { // it watches now
	}
	say(&pb.AgentMessage{Of: &pb.AgentMessage_Logs{Logs: &pb.LogLines{Job: job, Member: id, Lines: []string{"farewell"}}}})
	say(&pb.AgentMessage{Of: &pb.AgentMessage_Exited{Exited: &pb.Exited{Job: job, Member: id}}})
	var lines []string
	for {
		e := told()
		lines = append(lines, e.GetLogs().GetLines()...)
		if e.GetEnded() != nil {
			break
		}
	}
	require.Equal(t, []string{"farewell"}, lines)
}

func TestDifferentWeightsAreNotBelieved(t *testing.T) {
	l := start(t, t.TempDir(), "127.0.0.1:0")
	job := submit(t, l, &pb.JobSpec{Min: 2, Start: 2, LivenessNanos: int64(time.Minute)})
	fresh := func() *pb.Fence { return &pb.Fence{HoldsState: true} }
	a := l.attach(t.Context(), job, "a", fresh())
	b := l.attach(t.Context(), job, "b", fresh())
	gen := joinAll(t, a, b).Generation
	for i, w := range []*fakeWorker{a, b} {
		w.send(&pb.WorkerMessage{Of: &pb.WorkerMessage_Finished{Finished: &pb.Finished{
			Generation: gen, Step: 100, WeightsSha256: []string{"aa", "bb"}[i]}}})
	}
	end := lastEvent(t, l, job).GetEnded()
	require.EqualValues(t, 1, end.Code)
	require.Contains(t, end.Reason, "the weights differ between ranks")
}

func TestCoordinatorRestartKeepsTheView(t *testing.T) {
	dir := t.TempDir()
	l := start(t, dir, "127.0.0.1:0")
	job := submit(t, l, &pb.JobSpec{Min: 1, Start: 2, LivenessNanos: int64(time.Minute)})
	fresh := func() *pb.Fence { return &pb.Fence{HoldsState: true} }
	a, b := l.attach(t.Context(), job, "a", fresh()), l.attach(t.Context(), job, "b", fresh())
	gen := joinAll(t, a, b).Generation
	a.beat(gen, 7)
	l.stop()

	l = start(t, dir, l.addr)
	at7 := &pb.Fence{Generation: gen, View: gen, Applied: 7, HoldsState: true, HoldsReduced: true}
	a, b = l.attach(t.Context(), job, "a", at7), l.attach(t.Context(), job, "b", at7)
	a.beat(gen, 8)
	b.beat(gen, 8)
	st, err := l.cl.Jobs(t.Context(), &pb.JobsRequest{})
	require.NoError(t, err)
	require.Equal(t, gen, st.Jobs[0].Ledger[len(st.Jobs[0].Ledger)-1].Generation, "a healthy ring needs no new view")

	// The generation goes on from where it was.
	l.attach(t.Context(), job, "a", at7).send(&pb.WorkerMessage{Of: &pb.WorkerMessage_Suspect{Suspect: &pb.Suspect{
		Generation: gen, Peer: "b", Reason: "reset"}}})
	require.Greater(t, b.recv().GetPrepare().GetGeneration(), gen)
}

func TestTwoCoordinatorsOneState(t *testing.T) {
	dir := t.TempDir()
	start(t, dir, "127.0.0.1:0")
	err := Run(t.Context(), Config{Listen: "127.0.0.1:0", StateDir: dir})
	require.ErrorContains(t, err, "in use by another coordinator")
}

func TestConfigIsChecked(t *testing.T) {
	for name, tc := range map[string]struct {
		cfg  Config
		want string
	}{
		"no state":     {Config{}, "no state directory"},
		"not loopback": {Config{StateDir: t.TempDir(), Listen: "0.0.0.0:0"}, "not loopback"},
		"no port":      {Config{StateDir: t.TempDir(), Listen: "127.0.0.1"}, "host:port"},
	} {
		t.Run(name, func(t *testing.T) {
			require.ErrorContains(t, Run(t.Context(), tc.cfg), tc.want)
		})
	}
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer lis.Close()
	err = Run(t.Context(), Config{StateDir: filepath.Join(t.TempDir(), "x"), Listen: lis.Addr().String()})
	require.ErrorContains(t, err, "cannot listen on")
}

func TestBadRequests(t *testing.T) {
	l := start(t, t.TempDir(), "127.0.0.1:0")
	_, err := l.cl.Submit(t.Context(), &pb.SubmitRequest{Spec: &pb.JobSpec{}})
	require.Equal(t, codes.InvalidArgument, status.Code(err))
	_, err = l.cl.Submit(t.Context(), &pb.SubmitRequest{Spec: &pb.JobSpec{Command: []string{"x"}, Min: 3, Max: 2}})
	require.ErrorContains(t, err, "min 3 is larger than max 2")
	_, err = l.cl.Inject(t.Context(), &pb.InjectRequest{Job: "nope"})
	require.Equal(t, codes.NotFound, status.Code(err))

	job := submit(t, l, &pb.JobSpec{Min: 4, Start: 4})
	l.attachPlan(job, "a", &pb.Plan{Shards: 2, Steps: 1})
	end := lastEvent(t, l, job).GetEnded()
	require.EqualValues(t, 2, end.Code)
	require.Contains(t, end.Reason, "2 logical shards and cannot feed 4 workers")
}

func TestSetupErrorEndsTheJob(t *testing.T) {
	l := start(t, t.TempDir(), "127.0.0.1:0")
	job := submit(t, l, &pb.JobSpec{Min: 1})
	st, err := l.cl.Attach(t.Context())
	require.NoError(t, err)
	require.NoError(t, st.Send(&pb.WorkerMessage{Of: &pb.WorkerMessage_Hello{Hello: &pb.Hello{Job: job, Member: &pb.Member{Id: "a"}}}}))
	require.NoError(t, st.Send(&pb.WorkerMessage{Of: &pb.WorkerMessage_Failed{Failed: &pb.Failed{Reason: "no data", Usage: true}}}))
	end := lastEvent(t, l, job).GetEnded()
	require.EqualValues(t, 2, end.Code)
	require.Equal(t, "no data", end.Reason)
}

// TestSlotsAreUsedUp: two workers that die at once leave no slot for a third when no restarts are left.
func TestSlotsAreUsedUp(t *testing.T) {
	l := start(t, t.TempDir(), "127.0.0.1:0")
	job := submit(t, l, &pb.JobSpec{Min: 1, Max: 2, LivenessNanos: int64(time.Minute)})
	st, err := l.cl.Serve(t.Context())
	require.NoError(t, err)
	say := func(m *pb.AgentMessage) { require.NoError(t, st.Send(m)) }
	say(&pb.AgentMessage{Of: &pb.AgentMessage_Hello{Hello: &pb.AgentHello{Id: "x", Host: "h", Slots: 2}}})
	spawned := func() *pb.Spawn {
		for {
			c, err := st.Recv()
			require.NoError(t, err)
			if c.GetSpawn() != nil {
				return c.GetSpawn()
			}
			require.Nil(t, c.GetRelease(), "the job ended")
		}
	}
	var ids []string
	for range 2 {
		ids = append(ids, spawned().Member)
	}
	fresh := &pb.Fence{HoldsState: true}
	for _, id := range ids {
		l.attach(t.Context(), job, id, fresh)
	}
	for _, id := range ids {
		say(&pb.AgentMessage{Of: &pb.AgentMessage_Exited{Exited: &pb.Exited{Job: job, Member: id, Code: 3}}})
	}
	// All workers ended by themselves and nobody can come: the job ends; a spawn would have come first.
	for {
		c, err := st.Recv()
		require.NoError(t, err)
		require.Nil(t, c.GetSpawn(), "a used-up slot was filled again")
		if c.GetRelease() != nil {
			break
		}
	}
	require.EqualValues(t, 1, lastEvent(t, l, job).GetEnded().Code)
}

func (l *life) attachPlan(job, id string, p *pb.Plan) {
	st, err := l.cl.Attach(l.t.Context())
	require.NoError(l.t, err)
	require.NoError(l.t, st.Send(&pb.WorkerMessage{Of: &pb.WorkerMessage_Hello{Hello: &pb.Hello{
		Job: job, Member: &pb.Member{Id: id, Addr: "127.0.0.1:1"}, Fence: &pb.Fence{HoldsState: true}, Plan: p}}}))
}

// lastEvent watches a job to its end.
func lastEvent(t *testing.T, l *life, job string) *pb.JobEvent {
	t.Helper()
	st, err := l.cl.Watch(t.Context(), &pb.WatchRequest{Job: job})
	require.NoError(t, err)
	for {
		e, err := st.Recv()
		require.NoError(t, err)
		if e.GetEnded() != nil {
			return e
		}
	}
}

func termsOf(l []*pb.Term) []elastic.Term {
	var out []elastic.Term
	for _, t := range l {
		out = append(out, elastic.Term{Generation: elastic.Generation(t.Generation),
			First: elastic.Step(t.First), Last: elastic.Step(t.Last), World: int(t.World)})
	}
	return out
}

// TestAJobWithoutSlotsSaysSo watches a job that no agent can start.
func TestAJobWithoutSlotsSaysSo(t *testing.T) {
	l := start(t, t.TempDir(), "127.0.0.1:0")
	st, err := l.cl.Watch(t.Context(), &pb.WatchRequest{Job: submit(t, l, &pb.JobSpec{Min: 2})})
	require.NoError(t, err)
	e, err := st.Recv()
	require.NoError(t, err)
	require.Equal(t, "wait", e.GetChange().GetKind())
	require.Contains(t, e.GetChange().GetReason(), "0 of 2 have a slot")
}

func TestReadJobs(t *testing.T) {
	dir := t.TempDir()
	_, err := ReadJobs(dir)
	require.ErrorIs(t, err, os.ErrNotExist)
	l := start(t, dir, "127.0.0.1:0")
	job := submit(t, l, &pb.JobSpec{Min: 1, LivenessNanos: int64(time.Minute)})
	w := l.attach(t.Context(), job, "a", &pb.Fence{HoldsState: true})
	gen := joinAll(t, w).Generation
	w.send(&pb.WorkerMessage{Of: &pb.WorkerMessage_Finished{Finished: &pb.Finished{Generation: gen, Step: 100, WeightsSha256: "aa"}}})
	lastEvent(t, l, job)
	_, err = ReadJobs(dir)
	require.ErrorIs(t, err, ErrInUse)
	l.stop()
	jobs, err := ReadJobs(dir)
	require.NoError(t, err)
	require.Len(t, jobs, 1)
	require.Equal(t, "done", jobs[0].Status)
	require.EqualValues(t, 100, jobs[0].Step)
	require.NoError(t, elastic.VerifyLedger(termsOf(jobs[0].Ledger), 100))
}
