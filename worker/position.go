package worker

import (
	"context"
	"sync"
	"time"

	"github.com/farandole-ml/farandole/collective"
	"github.com/farandole-ml/farandole/elastic"
)

// generation is this worker's part in one view. Its context ends, with cause collective.ErrGenerationChanged, when a
// higher generation is prepared.
type generation struct {
	view   *elastic.View
	rank   int
	ctx    context.Context //nolint:containedctx // a generation is a lifetime, and this is what ends with it
	cancel context.CancelCauseFunc

	ready chan struct{} // closed once connecting has ended; group and err are set then
	err   error

	mu    sync.Mutex
	group *collective.Group // guarded by mu until ready is closed; nil alone
	ended error             // guarded by mu: why abort was called

	// The training goroutine's own.
	stage  stage
	broken bool
}

// stage is how far the training goroutine has come with a generation.
type stage int

const (
	stageConnect stage = iota // the mesh is being made
	stageAgree                // the sync plan is done, or one reduced step is left to apply
	stageFormed               // steps can run
)

func (g *generation) number() elastic.Generation { return g.view.Generation }
func (g *generation) world() int                 { return g.view.World() }

// abort ends what runs in g, now and for ever.
func (g *generation) abort(cause error) {
	g.mu.Lock()
	if g.ended == nil {
		g.ended = cause
	}
	group := g.group
	g.mu.Unlock()
	if group != nil {
		group.Abort(cause) // before cancel, so that this cause is the group's
	}
	g.cancel(cause)
}

// connected hands over the mesh, or says why there is none.
func (g *generation) connected(tr collective.Transport, err error) {
	g.mu.Lock()
	g.err = err
	if err == nil {
		g.group = collective.New(tr)
		if g.ended != nil {
			g.group.Abort(g.ended)
		}
	}
	g.mu.Unlock()
	close(g.ready)
}

// ending is how the session ends.
type ending struct {
	code int
	err  error // nil for a job that is done
}

// position is where this worker stands. The control goroutine reads and fences it at any time, the training
// goroutine moves it, and only while busy: what was answered to a Prepare stays true until the next view.
type position struct {
	mu      sync.Mutex
	fence   elastic.Fence      // guarded by mu, as all that follows
	busy    bool               // the training goroutine may move the fence: an answer waits
	due     elastic.Generation // of the Prepare not answered yet; 0: none
	gen     *generation        // of the newest view; nil: outside
	over    *ending
	broken  bool      // gen's group does not work
	down    time.Time // since when there is no coordinator; zero: there is one
	changed chan struct{}
	answer  func(elastic.Generation, elastic.Fence)
}

func newPosition(answer func(elastic.Generation, elastic.Fence)) *position {
	return &position{changed: make(chan struct{}), answer: answer}
}

// signal wakes those who watch. mu is held.
func (p *position) signal() {
	close(p.changed)
	p.changed = make(chan struct{})
}

// settled ends a busy time and answers a waiting Prepare. mu is held.
func (p *position) settled() {
	p.busy = false
	if p.due != 0 {
		p.answer(p.due, p.fence)
		p.due = 0
	}
	p.signal()
}

// working says whether g is the newest generation and not fenced off. mu is held.
func (p *position) working(g *generation) bool {
	return p.over == nil && p.gen == g && g != nil && p.fence.Generation <= g.number() && g.ctx.Err() == nil
}

// begin makes the position busy on behalf of g; false when g is over.
func (p *position) begin(g *generation) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.working(g) {
		return false
	}
	p.busy = true
	return true
}

// settle ends a busy time; move changes the fence first.
func (p *position) settle(move func(f *elastic.Fence)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if move != nil {
		move(&p.fence)
	}
	p.settled()
}

// edit changes the fence within a busy time.
func (p *position) edit(move func(f *elastic.Fence)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	move(&p.fence)
}

func (p *position) at() elastic.Fence {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.fence
}

// current is the newest view's generation, or nil.
func (p *position) current() *generation {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.gen
}

func (p *position) isCurrent(g *generation) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.working(g)
}

// end is the session's end; the first one counts.
func (p *position) end(code int, err error) {
	p.mu.Lock()
	over := p.over != nil
	p.mu.Unlock()
	if !over {
		p.endWith(code, err)
	}
}

// endWith is end, over an end that there may be already: what went wrong here says more than what the job made of it.
func (p *position) endWith(code int, err error) {
	p.mu.Lock()
	p.over = &ending{code, err}
	g := p.gen
	p.signal()
	p.mu.Unlock()
	if g != nil {
		g.abort(collective.ErrClosed)
	}
}

func (p *position) ending() *ending {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.over
}

// setBroken records whether gen's group works.
func (p *position) setBroken(b bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.broken = b
	p.signal()
}

// contact records that the coordinator was found or lost.
func (p *position) contact(down time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if down.IsZero() || p.down.IsZero() {
		p.down = down
		p.signal()
	}
}

// steady waits until the fence stands still or its group works, and gives it: what a Hello says.
func (p *position) steady(ctx context.Context) (elastic.Fence, error) {
	for {
		p.mu.Lock()
		if !p.busy || p.working(p.gen) && !p.broken {
			defer p.mu.Unlock()
			return p.fence, nil
		}
		changed := p.changed
		p.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return elastic.Fence{}, context.Cause(ctx)
		}
	}
}
