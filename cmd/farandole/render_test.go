package main

import (
	"bytes"
	"flag"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	pb "github.com/farandole-ml/farandole/coordinator/coordinatorpb"
)

var update = flag.Bool("update", false, "write the golden files anew")

// golden holds got against testdata/golden/name.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", "golden", name)
	if *update {
		require.NoError(t, os.WriteFile(path, []byte(got), 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(want), got, "run with -update after looking at the difference")
}

// story is a job with every kind of event, a step every 250 ms.
func story(play func(at time.Duration, e *pb.JobEvent)) {
	at := time.Duration(0)
	ev := func(e *pb.JobEvent) { play(at, e) }
	members := func(n int) (m, h []string) {
		for i := range n {
			m, h = append(m, fmt.Sprintf("m%d", i)), append(h, []string{"mars", "venus"}[i%2])
		}
		return m, h
	}
	view := func(gen uint64, resume int64, n int) {
		m, h := members(n)
		ev(&pb.JobEvent{Of: &pb.JobEvent_View{View: &pb.ViewEvent{Generation: gen, Resume: resume, Members: m, Hosts: h}}})
	}
	changed := func(c *pb.MemberChange) { ev(&pb.JobEvent{Of: &pb.JobEvent_Change{Change: c}}) }
	steps := func(from, to int64, gen uint64, n int) {
		for s := from; s <= to; s++ {
			at += 250 * time.Millisecond
			ev(&pb.JobEvent{Of: &pb.JobEvent_Progress{Progress: &pb.Progress{
				Step: s, Loss: 4 / math.Sqrt(float64(s)), Generation: gen, World: int32(n), TokensPerSecond: 14234}}})
		}
	}
	logs := func(member string, slot int32, stderr bool, lines ...string) {
		ev(&pb.JobEvent{Of: &pb.JobEvent_Logs{Logs: &pb.LogLines{Member: member, Slot: slot, Stderr: stderr, Lines: lines}}})
	}
	logs("m0", 0, false, "loading data\r")
	ev(&pb.JobEvent{Of: &pb.JobEvent_Plan{Plan: &pb.Plan{Shards: 8, Steps: 100, Seed: 7, SamplesPerStep: 64, TokensPerStep: 4096, DatasetLen: 60000, Program: "mnist mlp"}}})
	changed(&pb.MemberChange{Kind: "join", Member: "m0", Rank: -1, Host: "mars"})
	view(1, 0, 4)
	steps(1, 20, 1, 4)
	logs("m1", 1, true, "a warning", "in two lines")
	changed(&pb.MemberChange{Kind: "loss", Member: "m1", Rank: 1, Host: "venus", Step: 20, Generation: 1, World: 4, DetectMs: 4.26, Reason: "ended by signal: killed"})
	changed(&pb.MemberChange{Kind: "view", Rank: -1, Step: 20, Generation: 2, World: 3})
	view(2, 20, 3)
	steps(21, 21, 2, 3)
	changed(&pb.MemberChange{Kind: "resume", Member: "m1", Rank: 1, Host: "venus", Step: 21, Generation: 2, World: 3, ResumeMs: 131.4, Reason: "loss"})
	steps(22, 40, 2, 3)
	changed(&pb.MemberChange{Kind: "join", Member: "m9", Rank: -1, Host: "earth", Step: 40, Generation: 2, World: 3})
	view(3, 40, 4)
	changed(&pb.MemberChange{Kind: "resume", Member: "m9", Rank: 3, Step: 41, Generation: 3, World: 4, ResumeMs: 12345, Reason: "join"})
	steps(41, 50, 3, 4)
	ev(&pb.JobEvent{Of: &pb.JobEvent_Saved{Saved: &pb.Saved{Step: 50, Path: "/ckpt/step-00000050", Bytes: 498 << 20, BlockingSeconds: 0.0123, WriteSeconds: 2.34}}})
	changed(&pb.MemberChange{Kind: "suspect", Member: "m2", Rank: 2, Host: "mars", Step: 50, Generation: 3, Reason: "rank 3 hears nothing from it"})
	changed(&pb.MemberChange{Kind: "wait", Rank: -1, Step: 50, Generation: 3, Reason: "1 worker, and min is 2"})
	changed(&pb.MemberChange{Kind: "coordinator", Rank: -1, Generation: 3, Reason: "the coordinator is back"})
	steps(51, 100, 3, 4)
	ev(&pb.JobEvent{Of: &pb.JobEvent_Ended{Ended: &pb.JobEnded{Status: "done", Steps: 100}}})
}

// play renders the story and gives what came out of both streams, in order.
func play(t *testing.T, set func(c *console)) string {
	t.Helper()
	var b bytes.Buffer
	con := newConsole(&b, &b, false)
	set(con)
	start := time.Unix(1000, 0)
	now := start
	r := newRenderer(con, func() time.Time { return now })
	story(func(at time.Duration, e *pb.JobEvent) {
		now = start.Add(at)
		r.event(e)
	})
	return b.String()
}

func TestRenderPipe(t *testing.T) {
	golden(t, "pipe.txt", play(t, func(*console) {}))
}

func TestRenderQuiet(t *testing.T) {
	golden(t, "quiet.txt", play(t, func(c *console) { c.quiet = true }))
}

func TestRenderTerminal(t *testing.T) {
	got := play(t, func(c *console) {
		c.live, c.color = true, true
		c.width = func() int { return 100 }
	})
	golden(t, "terminal.txt", strings.ReplaceAll(strings.ReplaceAll(got, "\r", "<CR>\n"), "\x1b", "<ESC>"))

	// Whatever a terminal shows ends with the progress line gone and no line torn by another.
	require.True(t, strings.HasSuffix(got, eraseLine))
	for line := range strings.SplitSeq(got, "\n") {
		at := strings.LastIndex(line, eraseLine)
		if at < 0 {
			continue
		}
		shown := line[at+len(eraseLine):]
		require.False(t, strings.Contains(shown, "█") && strings.Contains(shown, "farandole:"), "a bar and a line share a row: %q", line)
	}
}

func TestRenderWithoutColor(t *testing.T) {
	got := play(t, func(c *console) {
		c.live = true
		c.width = func() int { return 100 }
	})
	require.NotContains(t, strings.ReplaceAll(got, eraseLine, ""), "\x1b", "no colour was asked for")
}

func TestNoColorEnvironment(t *testing.T) {
	t.Setenv("NO_COLOR", "1")
	c := newConsole(os.Stdout, os.Stderr, false)
	require.False(t, c.color)
}

func TestBarFitsEveryWidth(t *testing.T) {
	r := newRenderer(newConsole(&bytes.Buffer{}, &bytes.Buffer{}, false), time.Now)
	r.plan = &pb.Plan{Steps: 1000, TokensPerStep: 1}
	r.last = &pb.Progress{Step: 420, Loss: 2.5, World: 4, Generation: 3, TokensPerSecond: 1e6}
	for w := range 200 {
		line := r.barLine(w)
		require.Less(t, len([]rune(line)), max(w, 1), "width %d: %q", w, line)
		if w > 20 {
			require.Contains(t, line, "step 420/1000", "the step is what a narrow terminal keeps")
		}
	}
}

func TestFirstViewBehindACheckpoint(t *testing.T) {
	var b bytes.Buffer
	r := newRenderer(newConsole(&b, &b, false), time.Now)
	for gen := range uint64(2) {
		r.event(&pb.JobEvent{Of: &pb.JobEvent_View{View: &pb.ViewEvent{Generation: gen + 1, Resume: 30, Members: []string{"a"}}}})
	}
	require.Equal(t, "farandole: generation 1: 1 worker, going on from the checkpoint of step 30\n"+
		"farandole: generation 2: 1 worker, going on after step 30\n", b.String())
}

func TestTexts(t *testing.T) {
	for _, tc := range []struct{ got, want string }{
		{count(1, "worker"), "1 worker"}, {count(0, "worker"), "0 workers"}, {count(2, "worker"), "2 workers"},
		{siText(12.34), "12.3"}, {siText(1234), "1234"}, {siText(14234), "14.2k"}, {siText(2.5e6), "2.50M"}, {siText(3e9), "3.00G"},
		{bytesText(1), "1 byte"}, {bytesText(1023), "1023 bytes"}, {bytesText(1536), "1.5 KiB"}, {bytesText(3 << 40), "3.0 TiB"},
		{millis(0), "0 ms"}, {millis(4.26), "4.3 ms"}, {millis(131.4), "131 ms"}, {millis(12345), "12.3 s"},
		{durationText(300 * time.Millisecond), "1s"}, {durationText(72 * time.Second), "1m12s"},
		{durationText(90 * time.Minute), "1h30m"}, {durationText(49 * time.Hour), "2d01h"},
		{lossText(math.NaN()), "NaN"}, {lossText(math.Inf(1)), "+Inf"}, {lossText(2.34567), "2.3457"},
	} {
		require.Equal(t, tc.want, tc.got)
	}
}
