package worker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/farandole-ml/farandole/elastic"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// linear fits a line to points that depend on (seed, step, shard), with momentum. Its float32 sums depend on their order.
type linear struct {
	steps, shards int
	seed          uint64
	width         int
	w, g          []float32
	b, gb         []float32
	m             []float32
	applied       atomic.Int64
	before        func(ctx context.Context, s elastic.Shard) error // called by Gradients
	setup         func()
	finish        atomic.Int64
	program       string
	start         chan struct{} // no gradient before it is closed; nil: at once
	err           error

	shared  *sharedDevice // has the gradients; nil: copies, if there are any
	copies  *copies       // what is registered is a copy, as with a GPU; nil: the memory itself
	fetch   *fetching     // the copies, as a Fetcher; nil: they are none
	parts   int           // w is registered as so many parameters; 0: one
	overlap bool
	middle  func(ctx context.Context, s elastic.Shard) error // called between two Readys
	session *Session
}

func newLinear(steps, shards int) *linear {
	return &linear{steps: steps, shards: shards, seed: 7, width: 37, program: "linear"}
}

func (l *linear) Setup(_ context.Context, s *Session) error {
	l.w, l.g = make([]float32, l.width), make([]float32, l.width)
	l.b, l.gb = make([]float32, 1), make([]float32, 1)
	if l.shared != nil {
		l.g, l.gb = l.shared.gradients(l.width)
	}
	l.m = make([]float32, l.width+1)
	r := rand.New(rand.NewPCG(l.seed, 0))
	for i := range l.w {
		l.w[i] = r.Float32() - 0.5
	}
	if l.setup != nil {
		l.setup()
	}
	l.session = s
	s.Plan(Plan{Steps: int64(l.steps), Shards: l.shards, Seed: l.seed, SamplesPerStep: int64(4 * l.shards), Program: l.program, Overlap: l.overlap})
	if l.parts == 0 {
		s.Param("w", []int{l.width}, l.copies.value(l.w), l.copies.grad(l.g))
	}
	for i := range l.parts {
		lo, hi := l.width*i/l.parts, l.width*(i+1)/l.parts
		s.Param(fmt.Sprintf("w%d", i), []int{hi - lo}, l.copies.value(l.w[lo:hi]), l.copies.grad(l.g[lo:hi]))
	}
	s.Param("b", []int{1}, l.copies.value(l.b), l.copies.grad(l.gb))
	s.State("momentum", l.copies.value(l.m))
	switch {
	case l.shared != nil:
		s.Mirror(&residentCopies{copies: l.copies, on: l.shared})
	case l.fetch != nil:
		s.Mirror(l.fetch)
	case l.copies != nil:
		s.Mirror(l.copies)
	}
	return l.err
}

func (l *linear) Gradients(ctx context.Context, s elastic.Shard) (float64, error) {
	if l.start != nil {
		select {
		case <-l.start:
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
	}
	if l.shared != nil {
		_ = l.shared.Sync() // what is enqueued comes before what this writes
	}
	if l.before != nil {
		if err := l.before(ctx, s); err != nil {
			return 0, err
		}
	}
	r := rand.New(rand.NewPCG(l.seed+uint64(s.Step), uint64(s.Index)))
	x, loss := make([]float32, l.width), 0.0
	for range 4 {
		y, want := l.b[0], float32(0.25)
		for i := range x {
			x[i] = r.Float32() - 0.5
			y += l.w[i] * x[i]
			want += x[i] * float32(i%5)
		}
		d := y - want
		for i := range x {
			l.g[i] += d * x[i]
		}
		l.gb[0] += d
		loss += float64(d * d)
	}
	for i := l.parts; l.overlap && i >= 0; i-- { // b is the last parameter
		l.session.Ready(i)
		if i == l.parts/2 && l.middle != nil {
			if err := l.middle(ctx, s); err != nil {
				return 0, err
			}
		}
	}
	return loss, nil
}

func (l *linear) Apply(_ context.Context, step elastic.Step) error {
	lr := 0.1 / float32(l.shards*4)
	for i := range l.w {
		l.m[i] = 0.9*l.m[i] + l.g[i]
		l.w[i] -= lr * l.m[i]
	}
	l.m[l.width] = 0.9*l.m[l.width] + l.gb[0]
	l.b[0] -= lr * l.m[l.width]
	l.applied.Store(int64(step))
	return nil
}

func (l *linear) Finish(context.Context, *Session) error {
	l.finish.Add(1)
	return nil
}

// alone is the oracle: the weights of an undisturbed run on one worker.
func alone(t *testing.T, l *linear) string {
	t.Helper()
	sum, err := runAlone(t, Config{}, l)
	require.NoError(t, err)
	return sum
}

func runAlone(t *testing.T, cfg Config, l *linear) (string, error) {
	t.Helper()
	cfg.Logger = quiet()
	s, err := Join(t.Context(), cfg)
	require.NoError(t, err)
	var out bytes.Buffer
	s.stdout, s.stderr = &out, io.Discard
	err = s.run(t.Context(), l)
	sum, _ := strings.CutPrefix(strings.TrimSpace(out.String()), "weights_sha256 ")
	return sum, err
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// proc is one in-process worker.
type proc struct {
	t       *testing.T
	id      elastic.MemberID
	s       *Session
	trainer *linear
	done    chan struct{}
	err     error
}

var errKilled = errors.New("killed")

// launch starts a worker of c; change may alter its session first.
func launch(c *fakeCoordinator, n int, l *linear, change func(cfg *Config, p *proc)) *proc {
	t := c.t
	p := &proc{t: t, id: elastic.MemberID(fmt.Sprintf("w%d", n)), trainer: l, done: make(chan struct{})}
	cfg := Config{Coordinator: c.addr, Job: "job", Member: p.id, Host: "host", LocalRank: n, Liveness: c.policy.Liveness, Logger: testLogger(t, p.id)}
	if change != nil {
		change(&cfg, p)
	}
	s, err := Join(context.Background(), cfg)
	require.NoError(t, err)
	p.s = s
	if change != nil {
		change(&s.cfg, p)
	}
	l.start = c.start
	go func() {
		defer close(p.done)
		p.err = s.run(context.Background(), l)
	}()
	t.Cleanup(func() {
		p.kill()
		<-p.done
	})
	return p
}

// kill drops the worker's connections at once, as the end of its process would.
func (p *proc) kill() {
	s := p.s
	if g := s.pos.current(); g != nil {
		g.abort(errKilled)
	}
	s.cancel(errKilled)
	s.pos.endWith(1, errKilled)
}

// until waits for cond, which is called with the position locked.
func (p *proc) until(cond func() bool) {
	pos := p.s.pos
	for {
		pos.mu.Lock()
		ok, changed := cond(), pos.changed
		pos.mu.Unlock()
		if ok {
			return
		}
		<-changed
	}
}

func (p *proc) wait() error {
	<-p.done
	return p.err
}

// requireSame checks that every worker that ended well reported the oracle's weights.
func requireSame(c *fakeCoordinator, want string, procs ...*proc) {
	c.t.Helper()
	for _, p := range procs {
		require.NoErrorf(c.t, p.wait(), "%s", p.id)
		f := c.report(p.id)
		require.NotNilf(c.t, f, "%s did not report", p.id)
		require.Equalf(c.t, want, f.WeightsSha256, "%s at step %d of generation %d", p.id, f.Step, f.Generation)
	}
}

type testWriter struct {
	t  *testing.T
	mu sync.Mutex
}

func (w *testWriter) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}

func testLogger(t *testing.T, id elastic.MemberID) *slog.Logger {
	if !testing.Verbose() {
		return quiet()
	}
	_ = id
	return slog.New(slog.NewTextHandler(&testWriter{t: t}, nil))
}
