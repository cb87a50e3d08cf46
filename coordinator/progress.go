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
	started    time.Time // when the first view was announced
	lastCommit time.Time
	rate       float64 // steps per second, smoothed
	pausedAt   time.Time
	pausedFor  time.Duration
	falls      []fall // changes that wait for the next committed step
}

// fall is a membership change that has not been overcome yet.
type fall struct {
	change *pb.MemberChange
	at     time.Time
}

// maxFalls bounds the changes between two committed steps that get a resume time.
const maxFalls = 1024

func (p *progress) paused(now time.Time) {
	if p.pausedAt.IsZero() && !p.started.IsZero() {
		p.pausedAt = now
	}
}

// view notes an announced view; false when it was noted before.
func (p *progress) view(v *elastic.View) bool {
	if uint64(v.Generation) <= p.generation {
		return false
	}
	p.generation, p.world = uint64(v.Generation), v.World()
	if p.started.IsZero() {
		p.started = time.Now()
	}
	return true
}

func (p *progress) lost(c *pb.MemberChange, at time.Time) {
	if len(p.falls) < maxFalls && p.generation > 0 {
		p.falls = append(p.falls, fall{c, at})
	}
}

// heard takes a heartbeat of the current generation. It gives the resume events that its first commit brings.
func (p *progress) heard(h *pb.Heartbeat, now time.Time) (resumed []*pb.MemberChange, advanced bool) {
	if h.Generation != p.generation {
		return nil, false
	}
	if h.FirstUnixNanos != 0 && !p.pausedAt.IsZero() {
		first := time.Unix(0, h.FirstUnixNanos)
		if first.After(p.pausedAt) {
			p.pausedFor += first.Sub(p.pausedAt)
		}
		p.pausedAt = time.Time{}
	}
	if h.FirstUnixNanos != 0 {
		first := time.Unix(0, h.FirstUnixNanos)
		for _, f := range p.falls {
			resumed = append(resumed, &pb.MemberChange{
				Kind: "resume", Member: f.change.Member, Rank: f.change.Rank, Host: f.change.Host,
				Step: h.Applied, Generation: h.Generation, World: int32(p.world),
				ResumeMs: first.Sub(f.at).Seconds() * 1e3, Reason: f.change.Kind,
			})
		}
		p.falls = nil
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
