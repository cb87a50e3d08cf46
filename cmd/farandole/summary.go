package main

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"sort"

	pb "github.com/farandole-ml/farandole/coordinator/coordinatorpb"
)

// summary is what --summary and `-o json` write at the end. Numbers that do not exist (the loss of a job without a
// step, a NaN) are null.
type summary struct {
	Job              string              `json:"job"`
	Status           string              `json:"status"`
	ExitCode         int                 `json:"exit_code"`
	Reason           string              `json:"reason,omitempty"`
	Steps            int64               `json:"steps"`
	Samples          int64               `json:"samples"` // that this job trained on; those of an earlier run, whose checkpoint it began from, do not count
	FinalLoss        *float64            `json:"final_loss"`
	WeightsSHA256    string              `json:"weights_sha256"`
	Generations      int                 `json:"generations"`
	WorldSizes       []int               `json:"world_sizes"` // of each generation, in order
	TokensPerSecond  float64             `json:"tokens_per_second"`
	SamplesPerSecond float64             `json:"samples_per_second"`
	TrainSeconds     float64             `json:"train_seconds"`
	PausedSeconds    float64             `json:"paused_seconds"`
	Goodput          float64             `json:"goodput"` // 1 - paused/train
	Ledger           []summaryTerm       `json:"ledger"`
	Events           []summaryEvent      `json:"events"`
	Checkpoints      []summaryCheckpoint `json:"checkpoints"`
	Chaos            []chaosResult       `json:"chaos,omitempty"`
	Failure          *summaryFailure     `json:"failure,omitempty"`
}

type summaryTerm struct {
	Generation uint64 `json:"generation"`
	First      int64  `json:"first_step"`
	Last       int64  `json:"last_step"`
	World      int    `json:"world_size"`
}

type summaryEvent struct {
	Kind       string  `json:"kind"`
	Rank       int     `json:"rank"` // -1: none
	Member     string  `json:"member,omitempty"`
	Host       string  `json:"host,omitempty"`
	Step       int64   `json:"step"`
	Generation uint64  `json:"generation"`
	WorldSize  int     `json:"world_size"`
	DetectMS   float64 `json:"detect_ms"`
	ResumeMS   float64 `json:"resume_ms"` // from the fall to the next committed step
	Reason     string  `json:"reason"`
}

type summaryCheckpoint struct {
	Step            int64   `json:"step"`
	Path            string  `json:"path"`
	Bytes           int64   `json:"bytes"`
	BlockingSeconds float64 `json:"blocking_seconds"`
	WriteSeconds    float64 `json:"write_seconds"`
}

type summaryFailure struct {
	Rank   int      `json:"rank"`
	Member string   `json:"member"`
	Host   string   `json:"host"`
	Signal string   `json:"signal,omitempty"`
	Code   int      `json:"code"`
	Tail   []string `json:"tail,omitempty"`
}

// recorder collects a job's events for its summary.
type recorder struct {
	job    string
	plan   *pb.Plan
	last   *pb.Progress
	worlds map[uint64]int
	events []summaryEvent
	saved  []summaryCheckpoint
	ended  *pb.JobEnded

	restarts []coordinatorRestart // seen by us, not yet told by the coordinator
}

// maxSummaryEvents bounds a summary; later membership changes of a job that never settles are left out.
const maxSummaryEvents = 1 << 16

func newRecorder(job string) *recorder {
	return &recorder{job: job, worlds: map[uint64]int{}}
}

func (r *recorder) event(e *pb.JobEvent) {
	switch v := e.Of.(type) {
	case *pb.JobEvent_Plan:
		r.plan = v.Plan
	case *pb.JobEvent_Progress:
		r.last = v.Progress
	case *pb.JobEvent_View:
		r.worlds[v.View.Generation] = len(v.View.Members)
	case *pb.JobEvent_Saved:
		r.saved = append(r.saved, summaryCheckpoint{v.Saved.Step, v.Saved.Path, v.Saved.Bytes, v.Saved.BlockingSeconds, v.Saved.WriteSeconds})
	case *pb.JobEvent_Change:
		r.change(v.Change)
	case *pb.JobEvent_Ended:
		r.ended = v.Ended
		if v.Ended.Plan != nil {
			r.plan = v.Ended.Plan
		}
	}
}

// change records a membership change; a resume is also written into the change that it overcomes.
func (r *recorder) change(c *pb.MemberChange) {
	if c.Kind == "join" && c.Generation == 0 {
		return // of the first view, which is no change
	}
	if c.Kind == "resume" {
		for i := len(r.events) - 1; i >= 0; i-- { // a member may come, go and come again
			e := &r.events[i]
			if e.Kind == c.Reason && e.Member == c.Member {
				e.ResumeMS = finite(c.ResumeMs)
				break
			}
		}
	}
	resume, reason := finite(c.ResumeMs), c.Reason
	if c.Kind == "coordinator" && len(r.restarts) > 0 {
		resume, reason = r.restarts[0].words()
		r.restarts = r.restarts[1:]
	}
	r.add(summaryEvent{
		Kind: c.Kind, Rank: int(c.Rank), Member: c.Member, Host: c.Host, Step: c.Step, Generation: c.Generation,
		WorldSize: int(c.World), DetectMS: finite(c.DetectMs), ResumeMS: resume, Reason: reason,
	})
}

// restarted adds what only the one who started the coordinator knows to the event that the new coordinator tells,
// whichever of both comes first.
func (r *recorder) restarted(c coordinatorRestart) {
	for i := range r.events {
		if e := &r.events[i]; e.Kind == "coordinator" && e.ResumeMS == 0 {
			e.ResumeMS, e.Reason = c.words()
			return
		}
	}
	r.restarts = append(r.restarts, c)
}

func (r *recorder) add(e summaryEvent) {
	if len(r.events) < maxSummaryEvents {
		r.events = append(r.events, e)
	}
}

// summary is the record with the process's exit code; status and reason stand for a job whose end was not seen.
func (r *recorder) summary(code int, status, reason string, chaos []chaosResult) *summary {
	s := &summary{
		Job: r.job, Status: status, ExitCode: code, Reason: reason, Checkpoints: r.saved, Chaos: chaos,
		Ledger: []summaryTerm{}, WorldSizes: []int{},
	}
	if r.last != nil {
		s.Steps, s.FinalLoss = r.last.Step, number(r.last.Loss)
	}
	trained := int64(0)
	if e := r.ended; e != nil {
		s.Steps, s.WeightsSHA256 = e.Steps, e.WeightsSha256
		s.TrainSeconds, s.PausedSeconds = finite(e.TrainSeconds), finite(e.PausedSeconds)
		s.FinalLoss = nil
		if e.Steps > 0 {
			s.FinalLoss = number(e.Loss)
		}
		for _, t := range e.Ledger {
			s.Ledger = append(s.Ledger, summaryTerm{t.Generation, t.First, t.Last, int(t.World)})
			if t.Generation == 0 {
				continue // steps of an earlier run, read from its checkpoint
			}
			r.worlds[t.Generation] = int(t.World)
			trained += max(0, t.Last-t.First+1)
		}
		if f := e.Failure; f != nil {
			s.Failure = &summaryFailure{int(f.Rank), f.Member, f.Host, f.Signal, int(f.Code), f.Tail}
		}
	}
	s.Samples = trained * r.plan.GetSamplesPerStep()
	if s.TrainSeconds > 0 {
		rate := float64(trained) / s.TrainSeconds
		s.TokensPerSecond = rate * float64(r.plan.GetTokensPerStep())
		s.SamplesPerSecond = rate * float64(r.plan.GetSamplesPerStep())
		s.Goodput = max(0, 1-s.PausedSeconds/s.TrainSeconds)
	}
	gens := make([]uint64, 0, len(r.worlds))
	for g := range r.worlds {
		gens = append(gens, g)
	}
	sort.Slice(gens, func(i, j int) bool { return gens[i] < gens[j] })
	for _, c := range r.restarts {
		ms, reason := c.words()
		r.add(summaryEvent{Kind: "coordinator", Rank: -1, Step: s.Steps, ResumeMS: ms, Reason: reason})
	}
	s.Events = r.events
	for _, g := range gens {
		s.WorldSizes = append(s.WorldSizes, r.worlds[g])
	}
	s.Generations = len(gens)
	if s.Events == nil {
		s.Events = []summaryEvent{}
	}
	if s.Checkpoints == nil {
		s.Checkpoints = []summaryCheckpoint{}
	}
	return s
}

// finite replaces what JSON cannot say.
func finite(v float64) float64 {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return 0
	}
	return v
}

func number(v float64) *float64 {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return nil
	}
	return &v
}

// encode is s as indented JSON with a final newline.
func (s *summary) encode() ([]byte, error) {
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode the summary: %w", err)
	}
	return append(b, '\n'), nil
}

// writeFileAtomic puts b at path so that a reader, or a crash, finds the old content or the new, never a part.
func writeFileAtomic(path string, b []byte) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	if err := f.Chmod(0o644); err != nil {
		return err
	}
	if _, err := f.Write(b); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return nil // renamed; only the directory's durability is unknown
	}
	defer d.Close()
	_ = d.Sync()
	return nil
}
