// Package agent is the one process per host that starts, watches and signals the workers there. It sees an
// exit within milliseconds, survives the coordinator's restarts, and leaves nothing running when it ends.
package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"runtime"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"

	pb "github.com/farandole-ml/farandole/coordinator/coordinatorpb"
)

// Config says what an agent offers, and to whom.
type Config struct {
	// Coordinator is its gRPC address, host:port. Unused when Find is set.
	Coordinator string

	// Find gives the coordinator's address before every connection; for hosts that discover it by gossip.
	Find func(ctx context.Context) (string, error)

	// ID names the agent; a restarted agent on the same host should be another. Zero means host and process id.
	ID string

	// Host names the machine; workers with equal hosts are taken to share memory. Zero means the hostname.
	Host string

	// Slots is how many workers may run here at once. Zero means one per core.
	Slots int

	// Listen is the address (no port) of the workers' data plane. Zero means 127.0.0.1.
	Listen string

	// LogDir gets one file per worker; empty means none, unless the job names a directory.
	LogDir string

	// Logger gets changes of state; nil means slog.Default().
	Logger *slog.Logger
}

func (c Config) withDefaults() Config {
	if c.Host == "" {
		c.Host, _ = os.Hostname()
	}
	if c.Host == "" {
		c.Host = "localhost"
	}
	if c.ID == "" {
		c.ID = fmt.Sprintf("%s-%d", c.Host, os.Getpid())
	}
	if c.Slots == 0 {
		c.Slots = runtime.NumCPU()
	}
	if c.Listen == "" {
		c.Listen = "127.0.0.1"
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.Find == nil {
		addr := c.Coordinator
		c.Find = func(context.Context) (string, error) { return addr, nil }
	}
	return c
}

func (c Config) validate() error {
	if c.Coordinator == "" && c.Find == nil {
		return errors.New("agent: no coordinator given")
	}
	if c.Slots < 0 {
		return fmt.Errorf("agent: slots must not be negative, not %d", c.Slots)
	}
	return nil
}

// Limits of an agent.
const (
	maxQueue  = 1 << 14                // messages kept for a coordinator that is away; log lines go first
	redialMin = 20 * time.Millisecond  // first pause before another connection
	redialMax = 500 * time.Millisecond // longest pause
	endGrace  = 3 * time.Second        // for a released job's workers to end by themselves
)

// Agent runs one host's workers.
type Agent struct {
	cfg  Config
	fork chan func() // runs on the one thread that starts processes

	mu    sync.Mutex // guards all below
	addr  string     // the coordinator's, as last found
	procs map[string]*proc
	slots int
	queue []*pb.AgentMessage
	wake  chan struct{} // capacity 1
}

// Run serves the coordinator until ctx ends; then it kills what still runs, waits for it, and returns nil.
func Run(ctx context.Context, cfg Config) error {
	if err := cfg.validate(); err != nil {
		return err
	}
	cfg = cfg.withDefaults()
	a := &Agent{cfg: cfg, fork: make(chan func()), procs: map[string]*proc{}, slots: cfg.Slots, wake: make(chan struct{}, 1)}
	forkDone := make(chan struct{})
	go func() {
		defer close(forkDone)
		// Pdeathsig follows the thread that forks: this one stays as long as the agent.
		runtime.LockOSThread()
		for f := range a.fork {
			f()
		}
	}()
	a.connectLoop(ctx)
	a.killAll()
	close(a.fork)
	<-forkDone
	return nil
}

func (a *Agent) connectLoop(ctx context.Context) {
	pause := redialMin
	for ctx.Err() == nil {
		began := time.Now()
		err := a.serve(ctx)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > redialMax {
			pause = redialMin
		}
		a.cfg.Logger.Debug("coordinator lost, dialling again", "err", err, "pause", pause)
		select {
		case <-ctx.Done():
		case <-time.After(pause + rand.N(pause)):
		}
		pause = min(2*pause, redialMax)
	}
}

// serve is one connection's life.
func (a *Agent) serve(ctx context.Context) error {
	addr, err := a.cfg.Find(ctx)
	if err != nil {
		return err
	}
	a.mu.Lock()
	a.addr = addr
	a.mu.Unlock()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cc, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithInitialWindowSize(pb.WindowBytes), grpc.WithInitialConnWindowSize(pb.WindowBytes),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: redialMin, Multiplier: 1.6, MaxDelay: redialMax}}))
	if err != nil {
		return err
	}
	defer cc.Close()
	st, err := pb.NewCoordinatorClient(cc).Serve(ctx)
	if err != nil {
		return err
	}
	if err := st.Send(a.hello()); err != nil {
		return err
	}
	got := make(chan error, 1)
	go func() {
		for {
			c, err := st.Recv()
			if err != nil {
				got <- err
				return
			}
			a.obey(c)
		}
	}()
	for {
		for _, m := range a.take() {
			if err := st.Send(m); err != nil {
				cancel()
				<-got
				return err
			}
		}
		select {
		case err := <-got:
			return err
		case <-a.wake:
		}
	}
}

// hello says what runs here. What was queued about exits is told by that list, too.
func (a *Agent) hello() *pb.AgentMessage {
	a.mu.Lock()
	defer a.mu.Unlock()
	h := &pb.AgentHello{Id: a.cfg.ID, Host: a.cfg.Host, Slots: int32(a.slots)}
	for _, p := range a.procs {
		h.Running = append(h.Running, &pb.Running{Job: p.job, Member: p.member, Pid: int32(p.pid)})
	}
	return &pb.AgentMessage{Of: &pb.AgentMessage_Hello{Hello: h}}
}

// say queues a message for the coordinator. When it is away for long, log lines are dropped first.
func (a *Agent) say(m *pb.AgentMessage) {
	a.mu.Lock()
	if len(a.queue) < maxQueue || m.GetLogs() == nil && len(a.queue) < 2*maxQueue {
		a.queue = append(a.queue, m)
	}
	a.mu.Unlock()
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

func (a *Agent) take() []*pb.AgentMessage {
	a.mu.Lock()
	defer a.mu.Unlock()
	q := a.queue
	a.queue = nil
	return q
}

func (a *Agent) obey(c *pb.AgentCommand) {
	switch v := c.Of.(type) {
	case *pb.AgentCommand_Spawn:
		a.spawn(v.Spawn)
	case *pb.AgentCommand_Signal:
		a.signal(v.Signal)
	case *pb.AgentCommand_AddSlots:
		a.mu.Lock()
		a.slots += int(v.AddSlots.Add)
		a.mu.Unlock()
	case *pb.AgentCommand_Release:
		a.release(v.Release.Job)
	}
}
