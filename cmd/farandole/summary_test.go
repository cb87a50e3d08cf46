package main

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	pb "github.com/farandole-ml/farandole/coordinator/coordinatorpb"
)

func recordStory(ended *pb.JobEnded) *recorder {
	r := newRecorder("mnist-1")
	story(func(_ time.Duration, e *pb.JobEvent) {
		if e.GetEnded() != nil {
			if ended == nil {
				return
			}
			e.Of = &pb.JobEvent_Ended{Ended: ended}
		}
		r.event(e)
	})
	return r
}

func TestSummary(t *testing.T) {
	r := recordStory(&pb.JobEnded{
		Status: "done", Steps: 100, Loss: 0.4, WeightsSha256: "aa", TrainSeconds: 20, PausedSeconds: 5,
		Ledger: []*pb.Term{{Generation: 1, First: 1, Last: 20, World: 4}, {Generation: 2, First: 21, Last: 40, World: 3}, {Generation: 3, First: 41, Last: 100, World: 4}},
	})
	r.restarted(coordinatorRestart{"killed", 25 * time.Millisecond})
	s := r.summary(0, "done", "", []chaosResult{{Action: "kill rank=1 step=20", Injected: true, Step: 20, Member: "m1"}})
	b, err := s.encode()
	require.NoError(t, err)
	golden(t, "summary.json", string(b))

	require.Equal(t, int64(6400), s.Samples)
	require.Equal(t, []int{4, 3, 4}, s.WorldSizes)
	require.InDelta(t, 0.75, s.Goodput, 1e-9)
	require.InDelta(t, 4096*100/20.0, s.TokensPerSecond, 1e-6)
}

func TestSummaryPairsResumeWithItsChange(t *testing.T) {
	s := recordStory(nil).summary(1, "failed", "", nil)
	got := map[string]float64{}
	for _, e := range s.Events {
		if e.Kind == "loss" || e.Kind == "join" {
			got[e.Kind+" "+e.Member] = e.ResumeMS
		}
	}
	require.Equal(t, map[string]float64{"loss m1": 131.4, "join m9": 12345}, got)
}

func TestSummaryPairsResumeWithTheNewestChange(t *testing.T) {
	r := newRecorder("x")
	for _, c := range []*pb.MemberChange{
		{Kind: "join", Member: "m", Generation: 1}, {Kind: "resume", Member: "m", Reason: "join", ResumeMs: 10},
		{Kind: "join", Member: "m", Generation: 3}, {Kind: "resume", Member: "m", Reason: "join", ResumeMs: 20},
	} {
		r.event(&pb.JobEvent{Of: &pb.JobEvent_Change{Change: c}})
	}
	s := r.summary(0, "done", "", nil)
	require.Equal(t, []float64{10, 10, 20, 20}, []float64{s.Events[0].ResumeMS, s.Events[1].ResumeMS, s.Events[2].ResumeMS, s.Events[3].ResumeMS})
}

func TestSummaryOfAJobThatNeverEnded(t *testing.T) {
	s := recordStory(nil).summary(exitTimeLimit, "cancelled", "too slow", nil)
	require.Equal(t, int64(100), s.Steps)
	require.NotNil(t, s.FinalLoss)
	require.Equal(t, []int{4, 3, 4}, s.WorldSizes)
	require.Zero(t, s.Goodput)

	empty := newRecorder("x").summary(1, "failed", "", nil)
	b, err := empty.encode()
	require.NoError(t, err)
	var m map[string]any
	require.NoError(t, json.Unmarshal(b, &m))
	for _, k := range []string{"job", "status", "exit_code", "steps", "samples", "final_loss", "weights_sha256", "generations",
		"world_sizes", "tokens_per_second", "goodput", "events", "checkpoints"} {
		require.Contains(t, m, k)
	}
	require.Equal(t, []any{}, m["events"], "lists are never null")
	require.Equal(t, []any{}, m["checkpoints"])
	require.Equal(t, []any{}, m["world_sizes"])
	require.Nil(t, m["final_loss"])
}

func TestSummaryLeavesOutAnEarlierRun(t *testing.T) {
	r := newRecorder("x")
	r.event(&pb.JobEvent{Of: &pb.JobEvent_Ended{Ended: &pb.JobEnded{Status: "done", Steps: 30, TrainSeconds: 10, Plan: &pb.Plan{SamplesPerStep: 2},
		Ledger: []*pb.Term{{Generation: 0, First: 1, Last: 20}, {Generation: 1, First: 21, Last: 30, World: 2}}}}})
	s := r.summary(0, "done", "", nil)
	require.Equal(t, int64(20), s.Samples)
	require.Equal(t, []int{2}, s.WorldSizes)
	require.Equal(t, 1, s.Generations)
}

func TestSummaryOfNaN(t *testing.T) {
	r := newRecorder("x")
	r.event(&pb.JobEvent{Of: &pb.JobEvent_Ended{Ended: &pb.JobEnded{Status: "failed", Steps: 3, Loss: math.NaN(), TrainSeconds: math.Inf(1)}}})
	b, err := r.summary(1, "failed", "", nil).encode()
	require.NoError(t, err, "JSON has no NaN")
	require.Contains(t, string(b), `"final_loss": null`)
}

func TestCoordinatorRestartMeetsItsEvent(t *testing.T) {
	back := &pb.JobEvent{Of: &pb.JobEvent_Change{Change: &pb.MemberChange{Kind: "coordinator", Rank: -1}}}
	restart := coordinatorRestart{"killed", 25 * time.Millisecond}
	for name, play := range map[string]func(r *recorder){
		"event first":   func(r *recorder) { r.event(back); r.restarted(restart) },
		"restart first": func(r *recorder) { r.restarted(restart); r.event(back) },
		"no event":      func(r *recorder) { r.restarted(restart) },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRecorder("x")
			play(r)
			s := r.summary(0, "done", "", nil)
			require.Len(t, s.Events, 1)
			require.Equal(t, 25.0, s.Events[0].ResumeMS)
			require.Equal(t, "the coordinator ended (killed) and was started again", s.Events[0].Reason)
		})
	}
}

func TestWriteFileAtomic(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "out.json")
	require.NoError(t, writeFileAtomic(path, []byte("one")))
	require.NoError(t, writeFileAtomic(path, []byte("two")))
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, "two", string(b))
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, entries, 1, "no temporary file stays")
	require.Error(t, writeFileAtomic(filepath.Join(dir, "nosuch", "out.json"), nil))
	require.Error(t, writeFileAtomic(dir, []byte("x")), "a directory is in the way")
	entries, err = os.ReadDir(filepath.Dir(dir))
	require.NoError(t, err)
	require.Len(t, entries, 1, "no temporary file stays after a failure")
}

func TestOutcome(t *testing.T) {
	done := &pb.JobEnded{Status: "done"}
	cancelled := &pb.JobEnded{Status: "cancelled", Code: 130, Reason: "cancelled"}
	preempted := &pb.JobEnded{Status: "preempted", Code: 143}
	failed := &pb.JobEnded{Status: "failed", Code: 1, Reason: "boom"}
	for name, tc := range map[string]struct {
		ended *pb.JobEnded
		lost  error
		asked int
		code  int
	}{
		"done":                         {done, nil, 0, 0},
		"done before it was cancelled": {done, nil, exitInterrupted, 0},
		"cancelled by Ctrl-C":          {cancelled, nil, exitInterrupted, 130},
		"cancelled by the time limit":  {cancelled, nil, exitTimeLimit, 124},
		"cancelled by somebody else":   {cancelled, nil, 0, 130},
		"preempted":                    {preempted, nil, exitPreempted, 143},
		"failed while being cancelled": {failed, nil, exitInterrupted, 1},
		"starved":                      {&pb.JobEnded{Status: "starved", Code: 3}, nil, 0, 3},
		"usage":                        {&pb.JobEnded{Status: "failed", Code: 2}, nil, 0, 2},
		"no end, second Ctrl-C":        {nil, errNoEnd, exitInterrupted, 130},
		"no end, grace over":           {nil, errNoEnd, exitPreempted, 143},
		"no end, coordinator gone":     {nil, errWatchLost, 0, 1},
		"no end, job unknown":          {nil, usagef("no job"), 0, 2},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, tc.code, outcome(tc.ended, tc.lost, tc.asked).code)
		})
	}
}

func TestFailureBlock(t *testing.T) {
	tail := make([]string, 30)
	for i := range tail {
		tail[i] = "line"
	}
	s := &summary{Job: "gpt-1", Status: "failed", ExitCode: 1, Steps: 7, Reason: "all workers ended by themselves",
		Failure: &summaryFailure{Rank: 2, Member: "m2", Host: "mars", Signal: "killed", Tail: tail}}
	lines := failureBlock(s, &runOptions{jobOptions: jobOptions{logDir: "/logs"}})
	require.Equal(t, "job gpt-1 failed at step 7: all workers ended by themselves", lines[0])
	require.Equal(t, "  first failure: rank 2 on host mars (worker m2)", lines[1])
	require.Equal(t, "  it ended by:   signal: killed", lines[2])
	require.Equal(t, "  its last 20 lines:", lines[3])
	require.Len(t, lines, 4+20+1)
	require.Contains(t, lines[24], "out-of-memory")
	require.Contains(t, lines[24], "/logs")

	require.Empty(t, failureBlock(&summary{ExitCode: 0}, &runOptions{}))
	s = &summary{Job: "gpt-1", Status: "cancelled", ExitCode: 130, Steps: 7}
	require.Contains(t, failureBlock(s, &runOptions{})[1], "--checkpoint-dir")
	s.Checkpoints = []summaryCheckpoint{{Step: 5}}
	require.Contains(t, failureBlock(s, &runOptions{})[1], "the same command goes on from the checkpoint of step 5")
}
