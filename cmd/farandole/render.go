package main

import (
	"fmt"
	"math"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	pb "github.com/farandole-ml/farandole/coordinator/coordinatorpb"
)

// plainEvery is the least time between two progress lines on a pipe that no tenth of the job calls for.
const plainEvery = 5 * time.Second

// rateWindow is how far back the step rate looks: shorter follows a rescale sooner, longer jumps less.
const rateWindow = 10 * time.Second

// maxRatePoints bounds the window's points, whatever the step time.
const maxRatePoints = 256

// renderer turns a job's events into lines. One goroutine owns it.
type renderer struct {
	con  *console
	now  func() time.Time
	plan *pb.Plan
	last *pb.Progress
	view *pb.ViewEvent
	tee  teeRule

	ownCoordinator bool // its restarts are told by the one who starts it

	points    []ratePoint
	saidAt    time.Time // of the last plain progress line
	saidTenth int64
}

type ratePoint struct {
	at   time.Time
	step int64
}

func newRenderer(con *console, now func() time.Time) *renderer {
	return &renderer{con: con, now: now, tee: teeRule{all: 3}}
}

// rankOf is a member's rank in the newest view, or -1.
func (r *renderer) rankOf(member string) int {
	if r.view != nil {
		for rank, m := range r.view.Members {
			if m == member {
				return rank
			}
		}
	}
	return -1
}

// event shows one event of the job.
func (r *renderer) event(e *pb.JobEvent) {
	switch v := e.Of.(type) {
	case *pb.JobEvent_Plan:
		r.plan = v.Plan
		r.con.say("", "%s", planLine(v.Plan))
	case *pb.JobEvent_View:
		r.showView(v.View)
	case *pb.JobEvent_Change:
		r.change(v.Change)
	case *pb.JobEvent_Saved:
		r.con.say("", "%s", savedLine(v.Saved))
	case *pb.JobEvent_Logs:
		if r.tee.shows(int(v.Logs.Slot), v.Logs.Stderr) {
			r.con.worker(r.rankOf(v.Logs.Member), int(v.Logs.Slot), v.Logs.Stderr, v.Logs.Lines)
		}
	case *pb.JobEvent_Progress:
		r.progress(v.Progress)
	case *pb.JobEvent_Ended:
		r.con.progress("")
	}
}

func planLine(p *pb.Plan) string {
	var b strings.Builder
	if p.Program != "" {
		fmt.Fprintf(&b, "training %s: ", p.Program)
	}
	fmt.Fprintf(&b, "%s of %s in %s, seed %d", count(p.Steps, "step"), count(p.SamplesPerStep, "sample"),
		count(int64(p.Shards), "logical shard"), p.Seed)
	if p.DatasetLen > 0 {
		fmt.Fprintf(&b, ", %s an epoch", count(p.DatasetLen, "sample"))
	}
	return b.String()
}

func savedLine(s *pb.Saved) string {
	return fmt.Sprintf("checkpoint of step %d saved: %s (%s, training stalled for %s, written in %s)",
		s.Step, s.Path, bytesText(s.Bytes), secondsText(s.BlockingSeconds), secondsText(s.WriteSeconds))
}

func (r *renderer) showView(v *pb.ViewEvent) {
	from := "from the start"
	switch {
	case v.Resume > 0 && r.view == nil: // nobody here did those steps
		from = fmt.Sprintf("going on from the checkpoint of step %d", v.Resume)
	case v.Resume > 0:
		from = fmt.Sprintf("going on after step %d", v.Resume)
	}
	r.view, r.points = v, nil
	hosts := map[string]bool{}
	for _, h := range v.Hosts {
		hosts[h] = true
	}
	on := ""
	if len(hosts) > 1 {
		on = fmt.Sprintf(" on %d hosts", len(hosts))
	}
	r.con.say(colorBold, "generation %d: %s%s, %s", v.Generation, count(int64(len(v.Members)), "worker"), on, from)
}

// change shows one change of membership, or nothing where another line says it better.
func (r *renderer) change(c *pb.MemberChange) {
	if c.Kind == "coordinator" && r.ownCoordinator {
		return
	}
	if color, text := changeLine(r.named(c)); text != "" {
		r.con.say(color, "%s", text)
	}
}

// named is c in ranks, where the newest view has ranks for the members that c names.
func (r *renderer) named(c *pb.MemberChange) *pb.MemberChange {
	if r.view == nil || c.Kind != "suspect" {
		return c
	}
	out := proto.Clone(c).(*pb.MemberChange)
	if out.Rank < 0 && out.Member != "" {
		out.Rank = int32(r.rankOf(out.Member))
	}
	for rank, m := range r.view.Members {
		out.Reason = strings.ReplaceAll(out.Reason, m, fmt.Sprintf("rank %d", rank))
	}
	return out
}

// changeLine is a membership change as a line for people. Views have their own line, with the roster.
func changeLine(c *pb.MemberChange) (color, text string) {
	who := "a worker"
	switch {
	case c.Rank >= 0 && c.Host != "":
		who = fmt.Sprintf("rank %d on %s", c.Rank, c.Host)
	case c.Rank >= 0:
		who = fmt.Sprintf("rank %d", c.Rank)
	case c.Host != "":
		who = "a worker on " + c.Host
	}
	because := ""
	if c.Reason != "" {
		because = ": " + c.Reason
	}
	switch c.Kind {
	case "loss":
		return colorYellow, fmt.Sprintf("lost %s after step %d%s, noticed in %s", who, c.Step, because, millis(c.DetectMs))
	case "join":
		if c.Generation == 0 {
			return "", "" // the first view's line counts them
		}
		return colorGreen, who + " joins" + because
	case "resume":
		whose := "a worker"
		if c.Rank >= 0 {
			whose = fmt.Sprintf("rank %d", c.Rank)
		}
		what := "the change"
		switch c.Reason {
		case "loss":
			what = "the loss of " + whose
		case "join":
			what = whose + " joined"
		}
		return colorGreen, fmt.Sprintf("training again with %s, %s after %s", count(int64(c.World), "worker"), millis(c.ResumeMs), what)
	case "suspect":
		return colorYellow, fmt.Sprintf("%s is suspected at step %d%s", who, c.Step, because)
	case "wait":
		return colorYellow, fmt.Sprintf("waiting for workers at step %d%s", c.Step, because)
	case "coordinator":
		if c.Reason == "" {
			return colorYellow, "the coordinator is back"
		}
		return colorYellow, c.Reason
	case "view", "done":
		return "", ""
	}
	return "", fmt.Sprintf("%s at step %d%s", c.Kind, c.Step, because)
}

// progress takes a step in: a terminal's line is rewritten, a pipe gets a line now and then.
func (r *renderer) progress(p *pb.Progress) {
	if r.last != nil && p.Step < r.last.Step {
		r.points = nil // training went on from an older checkpoint
	}
	r.last = p
	r.note(p.Step)
	if r.con.live {
		r.con.progress(r.barLine(r.con.width()))
		return
	}
	tenth := int64(-1)
	if steps := r.plan.GetSteps(); steps > 0 {
		tenth = p.Step * 10 / steps
	}
	if tenth > r.saidTenth || r.now().Sub(r.saidAt) >= plainEvery {
		r.saidTenth, r.saidAt = max(tenth, r.saidTenth), r.now()
		r.con.say("", "%s", strings.Join(r.fields(), "  "))
	}
}

func (r *renderer) note(step int64) {
	now := r.now()
	r.points = append(r.points, ratePoint{now, step})
	for len(r.points) > 2 && now.Sub(r.points[0].at) > rateWindow {
		r.points = r.points[1:]
	}
	if len(r.points) > maxRatePoints {
		// Every second point describes the window as well.
		kept := r.points[:0]
		for i, p := range r.points {
			if i%2 == 0 || i == len(r.points)-1 {
				kept = append(kept, p)
			}
		}
		r.points = kept
	}
}

// rate is steps per second over the window, or 0 when it cannot be told yet.
func (r *renderer) rate() float64 {
	if len(r.points) < 2 {
		return 0
	}
	a, b := r.points[0], r.points[len(r.points)-1]
	if d := b.at.Sub(a.at).Seconds(); d > 0 {
		return float64(b.step-a.step) / d
	}
	return 0
}

// fields are the parts of a progress line, the most important first.
func (r *renderer) fields() []string {
	p, steps := r.last, r.plan.GetSteps()
	step := fmt.Sprintf("step %d", p.Step)
	if steps > 0 {
		step = fmt.Sprintf("step %d/%d (%d%%)", p.Step, steps, p.Step*100/steps)
	}
	f := []string{step}
	if p.Step > 0 {
		f = append(f, "loss "+lossText(p.Loss))
	}
	if p.TokensPerSecond > 0 {
		unit := "tokens/s"
		if r.plan.GetTokensPerStep() == 0 {
			unit = "samples/s"
		}
		f = append(f, siText(p.TokensPerSecond)+" "+unit)
	}
	f = append(f, count(int64(p.World), "worker"), fmt.Sprintf("generation %d", p.Generation))
	if rate := r.rate(); rate > 0 && steps > p.Step {
		left := time.Duration(float64(steps-p.Step) / rate * float64(time.Second))
		f = append(f, "ETA "+durationText(left))
	}
	if gpus := gpusText(p.Devices); gpus != "" {
		f = append(f, gpus)
	}
	return f
}

// barWidth is the columns of the bar; it goes first when the terminal is too narrow.
const barWidth = 20

// barLine is the terminal's progress line in width columns: the bar and then as many fields as fit.
func (r *renderer) barLine(width int) string {
	if r.last == nil || width < 1 {
		return ""
	}
	fields := r.fields()
	bar := ""
	if steps := r.plan.GetSteps(); steps > 0 {
		done := int(min(steps, r.last.Step) * barWidth / steps)
		bar = strings.Repeat("█", done) + strings.Repeat("░", barWidth-done) + " "
	}
	line := bar
	for i, f := range fields {
		sep := "  "
		if i == 0 {
			sep = ""
		}
		// One column stays free: some terminals wrap when the last one is filled.
		if next := line + sep + f; len([]rune(next)) < width {
			line = next
			continue
		}
		if i == 0 {
			line = clip(f, width-1)
		}
		break
	}
	return line
}

func count(n int64, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

func lossText(l float64) string {
	if math.IsNaN(l) || math.IsInf(l, 0) {
		return fmt.Sprint(l)
	}
	return fmt.Sprintf("%.4f", l)
}

// siText is a rate in three or four digits.
func siText(v float64) string {
	switch {
	case v >= 1e9:
		return fmt.Sprintf("%.2fG", v/1e9)
	case v >= 1e6:
		return fmt.Sprintf("%.2fM", v/1e6)
	case v >= 1e4:
		return fmt.Sprintf("%.1fk", v/1e3)
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.1f", v)
}

func bytesText(n int64) string {
	const unit = 1024
	if n < unit {
		return count(n, "byte")
	}
	v, i := float64(n), -1
	for v >= unit && i < 4 {
		v /= unit
		i++
	}
	return fmt.Sprintf("%.1f %ciB", v, "KMGTP"[i])
}

func secondsText(s float64) string {
	if s < 1 {
		return millis(s * 1e3)
	}
	return fmt.Sprintf("%.1f s", s)
}

func millis(ms float64) string {
	switch {
	case ms >= 10_000:
		return fmt.Sprintf("%.1f s", ms/1e3)
	case ms >= 10:
		return fmt.Sprintf("%.0f ms", ms)
	case ms > 0:
		return fmt.Sprintf("%.1f ms", ms)
	}
	return "0 ms"
}

// durationText is a remaining time in its two largest units.
func durationText(d time.Duration) string {
	d = d.Round(time.Second)
	switch {
	case d >= 24*time.Hour:
		return fmt.Sprintf("%dd%02dh", d/(24*time.Hour), d%(24*time.Hour)/time.Hour)
	case d >= time.Hour:
		return fmt.Sprintf("%dh%02dm", d/time.Hour, d%time.Hour/time.Minute)
	case d >= time.Minute:
		return fmt.Sprintf("%dm%02ds", d/time.Minute, d%time.Minute/time.Second)
	}
	return fmt.Sprintf("%ds", max(d, time.Second)/time.Second)
}
