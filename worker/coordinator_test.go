package worker

import (
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"

	pb "github.com/farandole-ml/farandole/coordinator/coordinatorpb"
	"github.com/farandole-ml/farandole/elastic"
)

// fakeCoordinator drives elastic.State over gRPC on loopback, as the real one does, with no store, no agents and no policy.
type fakeCoordinator struct {
	pb.UnimplementedCoordinatorServer
	t      *testing.T
	policy elastic.Policy
	addr   string

	mu       sync.Mutex
	server   *grpc.Server
	stopTick chan struct{}
	ticking  sync.WaitGroup
	state    *elastic.State
	record   elastic.Record
	began    time.Time
	streams  map[elastic.MemberID]*attached
	views    []*elastic.View
	finished map[elastic.MemberID]*pb.Finished
	failed   []*pb.Failed
	saved    []*pb.Saved
	suspects []*pb.Suspect
	fenced   []*pb.Fenced
	hellos   []*pb.Hello
	applied  map[elastic.MemberID]elastic.Step // by heartbeat
	devices  map[elastic.MemberID]*pb.DeviceReading
	ended    *elastic.Ended
	frozen   elastic.MemberID // whose process says nothing any more
	changed  chan struct{}
	start    chan struct{} // closed with the first view of policy.Start workers: no gradient is computed before
}

type attached struct {
	out chan *pb.WorkerCommand
	end chan struct{}
}

const testLiveness = time.Second

func newCoordinator(t *testing.T, p elastic.Policy) *fakeCoordinator {
	if p.Job == "" {
		p.Job = "job"
	}
	if p.Liveness == 0 {
		p.Liveness = testLiveness
	}
	if p.Settle == 0 {
		p.Settle = 20 * time.Millisecond
	}
	c := &fakeCoordinator{
		t: t, policy: p, state: elastic.New(p), began: time.Now(), addr: "127.0.0.1:0",
		streams: map[elastic.MemberID]*attached{}, finished: map[elastic.MemberID]*pb.Finished{},
		applied: map[elastic.MemberID]elastic.Step{}, devices: map[elastic.MemberID]*pb.DeviceReading{}, changed: make(chan struct{}), start: make(chan struct{}),
	}
	c.up()
	t.Cleanup(c.down)
	return c
}

// up starts serving, at the address it had before.
func (c *fakeCoordinator) up() {
	l, err := net.Listen("tcp", c.addr)
	require.NoError(c.t, err)
	server, stop := grpc.NewServer(), make(chan struct{})
	pb.RegisterCoordinatorServer(server, c)
	c.mu.Lock()
	c.addr, c.server, c.stopTick = l.Addr().String(), server, stop
	c.mu.Unlock()
	c.ticking.Go(func() { _ = server.Serve(l) })
	c.ticking.Go(func() {
		tick := time.NewTicker(elastic.LimitsOf(c.policy.Liveness).Heartbeat)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				c.feed(elastic.Tick{})
			case <-stop:
				return
			}
		}
	})
}

func (c *fakeCoordinator) down() {
	c.mu.Lock()
	server, stop := c.server, c.stopTick
	c.server, c.stopTick = nil, nil
	for id, a := range c.streams {
		close(a.end)
		delete(c.streams, id)
	}
	c.mu.Unlock()
	if server != nil {
		close(stop)
		server.Stop()
		c.ticking.Wait()
	}
}

// restart is a crash: only what was persisted is left.
func (c *fakeCoordinator) restart() {
	c.mu.Lock()
	c.state = elastic.Restore(c.policy, c.record, time.Since(c.began))
	c.mu.Unlock()
	c.up()
}

func (c *fakeCoordinator) feed(e elastic.Event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.feedLocked(e)
}

// freeze makes a worker lost, which does not attach again: its process is what is frozen, not its training alone.
func (c *fakeCoordinator) freeze(id elastic.MemberID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.frozen = id
	c.feedLocked(elastic.Lost{ID: id, Reason: "frozen"})
}

func (c *fakeCoordinator) feedLocked(e elastic.Event) {
	for _, a := range c.state.Step(time.Since(c.began), e) {
		switch a := a.(type) {
		case elastic.Persist:
			c.record = a.Record
		case elastic.Prepare:
			c.tell(a.To, &pb.WorkerCommand{Of: &pb.WorkerCommand_Prepare{Prepare: &pb.Prepare{Generation: uint64(a.Generation), Reason: a.Reason}}})
		case elastic.Announce:
			if len(c.views) == 0 || c.views[len(c.views)-1].Generation < a.View.Generation {
				c.views = append(c.views, a.View)
				select {
				case <-c.start:
				default:
					if a.View.World() >= c.policy.Start {
						close(c.start)
					}
				}
			}
			c.tell(a.To, &pb.WorkerCommand{Of: &pb.WorkerCommand_View{View: viewToPB(a.View)}})
		case elastic.Evict:
			c.tell(a.ID, &pb.WorkerCommand{Of: &pb.WorkerCommand_Evicted{Evicted: &pb.Evicted{Reason: a.Reason, Final: a.Final}}})
			if s := c.streams[a.ID]; s != nil {
				close(s.end)
				delete(c.streams, a.ID)
			}
		case elastic.Ended:
			c.ended = &a
			for id := range c.streams {
				c.tell(id, &pb.WorkerCommand{Of: &pb.WorkerCommand_Ended{Ended: &pb.Ended{Code: int32(a.Code), Reason: a.Reason}}})
			}
		}
	}
	close(c.changed)
	c.changed = make(chan struct{})
}

func (c *fakeCoordinator) tell(id elastic.MemberID, m *pb.WorkerCommand) {
	if s := c.streams[id]; s != nil {
		select {
		case s.out <- m:
		default:
			c.t.Errorf("the stream of %s is full", id)
		}
	}
}

func (c *fakeCoordinator) preempt(id elastic.MemberID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tell(id, &pb.WorkerCommand{Of: &pb.WorkerCommand_Preempt{Preempt: &pb.Preempt{}}})
}

// Attach implements the service.
func (c *fakeCoordinator) Attach(stream pb.Coordinator_AttachServer) error {
	m, err := stream.Recv()
	if err != nil {
		return err
	}
	h := m.GetHello()
	id := elastic.MemberID(h.Member.Id)
	a := &attached{out: make(chan *pb.WorkerCommand, 256), end: make(chan struct{})}
	a.out <- &pb.WorkerCommand{Of: &pb.WorkerCommand_Welcome{Welcome: &pb.Welcome{LivenessNanos: int64(c.policy.Liveness)}}}
	c.mu.Lock()
	if id == c.frozen {
		c.mu.Unlock()
		<-stream.Context().Done()
		return nil
	}
	if old := c.streams[id]; old != nil {
		close(old.end)
	}
	c.streams[id] = a
	c.hellos = append(c.hellos, h)
	if e := c.ended; e != nil {
		c.tell(id, &pb.WorkerCommand{Of: &pb.WorkerCommand_Ended{Ended: &pb.Ended{Code: int32(e.Code), Reason: e.Reason}}})
	} else if h.Plan != nil { // else a Failed follows
		c.feedLocked(elastic.Joined{
			Member: elastic.Member{ID: id, Addr: h.Member.Addr, Host: h.Member.Host, Class: h.Member.Class, Rank: int(h.Member.LocalRank)},
			Fence:  fenceFromPB(h.Fence), Shards: int(h.Plan.Shards),
		})
	}
	c.mu.Unlock()

	received := make(chan struct{})
	go func() {
		defer close(received)
		for {
			m, err := stream.Recv()
			if err != nil {
				return
			}
			c.receive(id, m)
		}
	}()
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.streams[id] == a {
			delete(c.streams, id)
			c.feedLocked(elastic.Detached{ID: id})
		}
	}()
	for {
		select {
		case m := <-a.out:
			if err := stream.Send(m); err != nil {
				return err
			}
		case <-received:
			return nil
		case <-a.end:
			for len(a.out) > 0 {
				if err := stream.Send(<-a.out); err != nil {
					return err
				}
			}
			return nil
		}
	}
}

func (c *fakeCoordinator) receive(id elastic.MemberID, m *pb.WorkerMessage) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch of := m.Of.(type) {
	case *pb.WorkerMessage_Heartbeat:
		b := of.Heartbeat
		c.applied[id], c.devices[id] = elastic.Step(b.Applied), b.Device
		c.feedLocked(elastic.Heard{ID: id, Generation: elastic.Generation(b.Generation), Applied: elastic.Step(b.Applied), Moved: b.Moved})
	case *pb.WorkerMessage_Fenced:
		c.fenced = append(c.fenced, of.Fenced)
		c.feedLocked(elastic.Fenced{ID: id, Generation: elastic.Generation(of.Fenced.Generation), Fence: fenceFromPB(of.Fenced.Fence)})
	case *pb.WorkerMessage_Formed:
		c.feedLocked(elastic.Formed{ID: id, Generation: elastic.Generation(of.Formed.Generation)})
	case *pb.WorkerMessage_Suspect:
		c.suspects = append(c.suspects, of.Suspect)
		c.feedLocked(elastic.Suspected{
			By: id, Peer: elastic.MemberID(of.Suspect.Peer), Generation: elastic.Generation(of.Suspect.Generation), Reason: of.Suspect.Reason,
		})
	case *pb.WorkerMessage_Finished:
		c.finished[id] = of.Finished
		c.feedLocked(elastic.Finished{ID: id, Generation: elastic.Generation(of.Finished.Generation), Step: elastic.Step(of.Finished.Step)})
	case *pb.WorkerMessage_Failed:
		c.failed = append(c.failed, of.Failed)
		c.feedLocked(elastic.Stop{Reason: of.Failed.Reason})
	case *pb.WorkerMessage_Saved:
		c.saved = append(c.saved, of.Saved)
		c.feedLocked(elastic.Tick{})
	}
}

// until waits for cond, which is called with the lock held whenever something happened.
func (c *fakeCoordinator) until(what string, cond func() bool) {
	c.t.Helper()
	limit := time.After(30 * time.Second)
	for {
		c.mu.Lock()
		ok, changed := cond(), c.changed
		c.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-changed:
		case <-limit:
			c.t.Fatalf("still waiting: %s", what)
		}
	}
}

// seen reads what the coordinator got.
func (c *fakeCoordinator) seen(read func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	read()
}

// viewsSoFar are the views announced, oldest first.
func (c *fakeCoordinator) viewsSoFar() (v []*elastic.View) {
	c.seen(func() { v = slices.Clone(c.views) })
	return v
}

// report is a worker's last Finished.
func (c *fakeCoordinator) report(id elastic.MemberID) (f *pb.Finished) {
	c.seen(func() { f = c.finished[id] })
	return f
}

// failures are the program errors that were reported, one at least.
func (c *fakeCoordinator) failures() (f []*pb.Failed) {
	c.until("a report of failure", func() bool { f = slices.Clone(c.failed); return len(f) > 0 })
	return f
}

func (c *fakeCoordinator) world() int {
	if len(c.views) == 0 {
		return 0
	}
	return c.views[len(c.views)-1].World()
}

func fenceFromPB(f *pb.Fence) elastic.Fence {
	return elastic.Fence{
		Generation: elastic.Generation(f.Generation), Applied: elastic.Step(f.Applied), HoldsReduced: f.HoldsReduced,
		HoldsState: f.HoldsState, Checkpoint: elastic.Step(f.Checkpoint), View: elastic.Generation(f.View), Term: elastic.Generation(f.Term),
	}
}

func viewToPB(v *elastic.View) *pb.View {
	m := &pb.View{
		Job: v.Job, Generation: uint64(v.Generation), Shards: int32(v.Shards), Resume: int64(v.Resume), ResumeTerm: uint64(v.ResumeTerm),
	}
	for r, w := range v.Roster {
		m.Roster = append(m.Roster, &pb.Member{Id: string(w.ID), Addr: w.Addr, Host: w.Host, Class: w.Class, LocalRank: int32(w.Rank)})
		m.Ranges = append(m.Ranges, &pb.Range{First: int32(v.Ranges[r].First), End: int32(v.Ranges[r].End)})
		p := &pb.SyncPlan{Kind: int32(v.Sync[r].Kind)}
		for _, f := range v.Sync[r].From {
			p.From = append(p.From, int32(f))
		}
		m.Sync = append(m.Sync, p)
	}
	return m
}
