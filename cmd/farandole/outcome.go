package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	pb "github.com/farandole-ml/farandole/coordinator/coordinatorpb"
)

// tailLines is how many of a failed worker's last lines are shown.
const tailLines = 20

// ending is how a run ended.
type ending struct {
	code           int
	status, reason string
}

// outcome decides a run's exit code from the job's end, or from why it was not seen, and from the code that a
// signal or the time limit asked for. A job that was done before it could be cancelled is done.
func outcome(e *pb.JobEnded, lost error, asked int) ending {
	switch {
	case e == nil && asked != 0:
		return ending{asked, "cancelled", sentence(lost)}
	case e == nil && lost != nil:
		return ending{max(exitFailed, exitCodeOf(lost)), "failed", sentence(lost)}
	case e == nil:
		return ending{exitFailed, "failed", "the job's end was not seen"}
	case e.Code == exitDone:
		return ending{exitDone, e.Status, e.Reason}
	case asked != 0 && (e.Status == "cancelled" || e.Status == "preempted"):
		return ending{asked, e.Status, e.Reason}
	}
	return ending{int(e.Code), e.Status, e.Reason}
}

func sentence(err error) string {
	if err == nil {
		return ""
	}
	if errors.Is(err, errWatchLost) {
		return err.Error() + "; the job may still be training there"
	}
	return err.Error()
}

func doneLine(s *summary) string {
	parts := []string{fmt.Sprintf("done: %s", count(s.Steps, "step"))}
	if s.FinalLoss != nil {
		parts = append(parts, "final loss "+lossText(*s.FinalLoss))
	}
	if s.TrainSeconds > 0 {
		parts = append(parts, fmt.Sprintf("in %s (%.1f%% of it training)", seconds(s.TrainSeconds), s.Goodput*100))
	}
	if s.Generations > 1 {
		parts = append(parts, fmt.Sprintf("%d generations", s.Generations))
	}
	line := strings.Join(parts, ", ")
	if s.WeightsSHA256 != "" {
		line += "; weights sha256 " + s.WeightsSHA256
	}
	return line
}

func seconds(s float64) string {
	if s < 60 {
		return fmt.Sprintf("%.1f s", s)
	}
	return durationText(time.Duration(s * float64(time.Second)))
}

// failureBlock is what a person needs when a run did not end well; empty when it did.
func failureBlock(s *summary, o *runOptions) []string {
	if s.ExitCode == exitDone {
		return nil
	}
	head := fmt.Sprintf("job %s %s", s.Job, statusWords(s))
	if s.Steps > 0 { // 0 may be a job whose first steps nobody has told yet
		head += fmt.Sprintf(" at step %d", s.Steps)
	}
	if s.Reason != "" {
		head += ": " + s.Reason
	}
	lines := []string{head}
	if f := s.Failure; f != nil && (f.Member != "" || f.Host != "") {
		who := "a worker that was not in the ring yet"
		if f.Rank >= 0 {
			who = fmt.Sprintf("rank %d", f.Rank)
		}
		lines = append(lines, fmt.Sprintf("  first failure: %s on host %s (worker %s)", who, f.Host, f.Member))
		if words := endWords(f); words != "" {
			lines = append(lines, "  it ended by:   "+words)
		}
		if len(f.Tail) > 0 {
			tail := f.Tail[max(0, len(f.Tail)-tailLines):]
			lines = append(lines, fmt.Sprintf("  its last %s:", count(int64(len(tail)), "line")))
			for _, l := range tail {
				lines = append(lines, "    | "+strings.TrimRight(l, "\r\n"))
			}
		}
	}
	if todo := advice(s, o); todo != "" {
		lines = append(lines, "  what to do:    "+todo)
	}
	return lines
}

func statusWords(s *summary) string {
	switch {
	case s.ExitCode == exitTimeLimit:
		return "was stopped by the time limit"
	case s.ExitCode == exitInterrupted:
		return "was cancelled"
	case s.Status == "preempted":
		return "saved a checkpoint and stopped"
	case s.ExitCode == exitPreempted:
		return "was terminated without a checkpoint"
	case s.Status == "starved":
		return "ran out of workers"
	}
	return "failed"
}

func endWords(f *summaryFailure) string {
	switch {
	case f.Signal != "":
		return "signal: " + f.Signal
	case f.Code == 0:
		return "" // it reported the error itself, which is the headline
	}
	return fmt.Sprintf("exit code %d", f.Code)
}

// advice is what to try next.
func advice(s *summary, o *runOptions) string {
	resume := ""
	if len(s.Checkpoints) > 0 {
		c := s.Checkpoints[len(s.Checkpoints)-1]
		resume = fmt.Sprintf("the same command goes on from the checkpoint of step %d", c.Step)
	}
	var logs string
	if o.logDir != "" {
		logs = fmt.Sprintf("; all output is in %s", filepath.Clean(o.logDir))
	} else {
		logs = "; --log-dir DIR keeps all output"
	}
	switch s.ExitCode {
	case exitTimeLimit, exitInterrupted, exitPreempted:
		if resume == "" && s.Steps > 0 && o.ckptDir == "" {
			return "nothing was saved: with --checkpoint-dir DIR --checkpoint-every N a job can go on later"
		}
		return resume
	case exitStarved:
		if s.Failure != nil && s.Failure.Code > 0 {
			return join("read its lines above: the program ended by itself; --max-restarts starts dead workers again, --min allows fewer"+logs, resume)
		}
		return join("allow fewer with --min, or let dead workers be started again with --max-restarts"+logs, resume)
	case exitUsage:
		return "correct the program's arguments and start again"
	}
	f := s.Failure
	switch {
	case f == nil:
		return resume
	case f.Code == 0 && f.Signal == "" && f.Rank < 0:
		return "" // it never joined, and the headline says what a training program does
	case f.Code == 0 && f.Signal == "":
		return join("the program gave up by itself: mend the cause and start again"+logs, resume)
	case f.Signal == "killed":
		return join("nobody here sent it SIGKILL unless --chaos did: look for the kernel's out-of-memory killer with `dmesg | tail`, and try fewer --workers"+logs, resume)
	case f.Signal != "":
		return join("the program crashed in native code or was signalled: run it alone with the same arguments to see it again"+logs, resume)
	}
	return join("read its lines above: the program ended by itself and would do so again"+logs, resume)
}

func join(a, b string) string {
	if a == "" || b == "" {
		return a + b
	}
	return a + "; then " + b
}
