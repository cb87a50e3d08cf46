package worker

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"

	"github.com/farandole-ml/farandole/elastic"
)

// Points where a Fault strikes.
const (
	PointGradients = "gradients"                // a shard's gradient is computed, it is not in the sum
	PointReduce    = "before-reduce"            // own shards are done, nothing is sent
	PointReduced   = "between-reduce-and-apply" // this rank has the sum, the update is not done
	PointApplied   = "after-apply"              // the update is done, nobody was told
	PointPrepare   = "prepare"                  // a Prepare came, it is not answered
	PointForming   = "forming"                  // a view came, the mesh is not connected
	PointSync      = "sync"                     // the mesh stands, the sync plan has not begun
)

// Actions of a Fault.
const (
	ActionCrash = "crash" // SIGKILL to itself
	ActionHang  = "hang"  // block there for ever, heartbeats go on
	ActionNaN   = "nan"   // one NaN in the shard's gradient; only at PointGradients
)

var (
	faultPoints = []string{
		PointGradients, PointReduce, PointReduced, PointApplied, PointPrepare, PointForming, PointSync,
	}
	faultActions = []string{ActionCrash, ActionHang, ActionNaN}
)

// Fault is one injected fault. It strikes once: at its point of step Step (the step under way), or, for prepare, forming
// and sync, the first time that the point is passed at Step or later.
type Fault struct {
	Action, Point string
	Step          elastic.Step
	Rank          int // in the generation at the time; -1 means any
}

// ParseFault reads "action:point@step" or "action:point@step#rank", as in "crash:before-reduce@20#1".
func ParseFault(text string) (*Fault, error) {
	bad := fmt.Errorf("FARANDOLE_FAULT=%q is not ACTION:POINT@STEP[#RANK] with an action of %s and a point of %s",
		text, strings.Join(faultActions, ", "), strings.Join(faultPoints, ", "))
	f := &Fault{Rank: -1}
	rest, rank, ranked := strings.Cut(text, "#")
	what, step, ok1 := strings.Cut(rest, "@")
	action, point, ok2 := strings.Cut(what, ":")
	n, err := strconv.ParseInt(step, 10, 64)
	if !ok1 || !ok2 || err != nil || n < 0 || !slices.Contains(faultActions, action) || !slices.Contains(faultPoints, point) {
		return nil, bad
	}
	if action == ActionNaN && point != PointGradients {
		return nil, bad
	}
	f.Action, f.Point, f.Step = action, point, elastic.Step(n)
	if ranked {
		r, err := strconv.Atoi(rank)
		if err != nil || r < 0 {
			return nil, bad
		}
		f.Rank = r
	}
	return f, nil
}

func (f *Fault) hits(point string, step elastic.Step, rank int) bool {
	if f.Point != point || f.Rank >= 0 && f.Rank != rank {
		return false
	}
	switch point {
	case PointPrepare, PointForming, PointSync:
		return step >= f.Step
	}
	return step == f.Step
}

// injector gives the function that a session calls at each point; nil when there is nothing to inject.
// It reports whether the shard's gradient shall become NaN.
func (f *Fault) injector() func(point string, step elastic.Step, rank int) (nan bool) {
	if f == nil {
		return nil
	}
	var struck atomic.Bool
	return func(point string, step elastic.Step, rank int) bool {
		if !f.hits(point, step, rank) || !struck.CompareAndSwap(false, true) {
			return false
		}
		switch f.Action {
		case ActionCrash:
			_ = syscall.Kill(syscall.Getpid(), syscall.SIGKILL)
			select {}
		case ActionHang:
			select {}
		}
		return true
	}
}

// strike passes a fault point. It is called by the training goroutine, for PointPrepare by the control goroutine and for
// PointForming by the connecting one.
func (s *Session) strike(point string, step elastic.Step, rank int) (nan bool) {
	if s.inject == nil {
		return false
	}
	return s.inject(point, step, rank)
}
