package coordinator

import (
	"time"

	pb "github.com/farandole-ml/farandole/coordinator/coordinatorpb"
	"github.com/farandole-ml/farandole/elastic"
)

// progress is what a job has done, as its workers' heartbeats tell.
type progress struct {
	step       int64
	loss       float64
	generation uint64
	world      int
	lastCommit time.Time
	rate       float64       // steps per second, smoothed
	resumed    bool          // a step was committed in this generation
	pausedFor  time.Duration // between the last commit of one generation and the first of the next
	falls      []fall        // changes that wait for the next committed step
}

// fall is a membership change that has not been overcome yet.
type fall struct {
	change     *pb.MemberChange
	generation uint64 // that it ended, or was left out of
	at         time.Time
}

// maxFalls bounds the changes between two committed steps that get a resume time.
const maxFalls = 1024

// view notes an announced view; false when it was noted before.
func (p *progress) view(v *elastic.View) bool {
	if uint64(v.Generation) <= p.generation {
		return false
	}
	p.generation, p.world, p.resumed = uint64(v.Generation), v.World(), false
	return true
}

// restore goes on with the view of an earlier life; what that life measured is gone.
func (p *progress) restore(v *elastic.View) {
	if v != nil {
		p.view(v)
		p.step, p.resumed = int64(v.Resume), true
	}
}

func (p *progress) lost(c *pb.MemberChange, at time.Time) {
	if len(p.falls) < maxFalls && p.generation > 0 {
		p.falls = append(p.falls, fall{c, p.generation, at})
	}
}

// heard takes a heartbeat of the current generation. It gives the resume events that its first commit brings.
func (p *progress) heard(h *pb.Heartbeat) (resumed []*pb.MemberChange, advanced bool) {
	if h.Generation != p.generation || h.FirstUnixNanos == 0 { // of no step that this generation committed
		return nil, false
	}
	if !p.resumed {
		p.resumed = true
		resumed = p.resume(h, time.Unix(0, h.FirstUnixNanos))
	}
	if h.Applied > p.step {
		at := time.Unix(0, h.AppliedUnixNanos)
		if d := at.Sub(p.lastCommit).Seconds(); d > 0 && !p.lastCommit.IsZero() {
			r := float64(h.Applied-p.step) / d
			if p.rate == 0 {
				p.rate = r
			}
			// A time constant of about 2 s, whatever the step time.
			w := min(1, d/2)
			p.rate += w * (r - p.rate)
		}
		p.step, p.loss, p.lastCommit = h.Applied, h.Loss, at
		return resumed, true
	}
	return resumed, false
}

// resume takes the first commit of a generation: it overcomes the changes that led to the generation, and ends a pause.
func (p *progress) resume(h *pb.Heartbeat, first time.Time) (resumed []*pb.MemberChange) {
	var later []fall
	for _, f := range p.falls {
		if f.generation >= h.Generation {
			later = append(later, f)
			continue
		}
		resumed = append(resumed, &pb.MemberChange{
			Kind: "resume", Member: f.change.Member, Rank: f.change.Rank, Host: f.change.Host,
			Step: h.Applied, Generation: h.Generation, World: int32(p.world),
			ResumeMs: first.Sub(f.at).Seconds() * 1e3, Reason: f.change.Kind,
		})
	}
	p.falls = later
	if !p.lastCommit.IsZero() {
		pause := first.Sub(p.lastCommit)
		if p.rate > 0 { // the step itself is no pause
			pause -= time.Duration(float64(time.Second) / p.rate)
		}
		p.pausedFor += max(0, pause)
	}
	return resumed
}
