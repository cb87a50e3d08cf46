package elastic_test

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"github.com/stretchr/testify/require"

	"github.com/farandole-ml/farandole/elastic"
)

// TestStories runs the scripts of testdata: what happens to a job, and what the state machine does about it.
// They are the protocol's description by example. Rewrite the outputs with -rewrite after a deliberate change.
//
//	job start=3 min=2 max=4 shards=8      a new job
//	do                                    events, one a line: [TIME] VERB MEMBERS KEY=VALUE…
//	1.5s join a,b host=x
//
// A tick passes every 100 ms of the story's time, and with it a heartbeat of every member that is attached and
// not silent. Verbs: join, fenced, formed, applied, suspect, finished, lost, detach, silent, awake, depart, stop, wait;
// crash ends the coordinator and restores it from what was durable; crashing does so in the middle of the next
// event, behind its first persist; late lets time pass without ticks.
func TestStories(t *testing.T) {
	datadriven.Walk(t, "testdata/stories", func(t *testing.T, path string) {
		var st *story
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			switch d.Cmd {
			case "job":
				st = newStory(t, d)
				return ""
			case "do":
				return st.do(d)
			case "show":
				return st.show()
			}
			d.Fatalf(t, "unknown command %s", d.Cmd)
			return ""
		})
	})
}

type story struct {
	t        *testing.T
	policy   elastic.Policy
	shards   int
	s        *elastic.State
	durable  elastic.Record
	now      time.Duration
	live     map[string]*storyMember
	crashing bool
	out      strings.Builder
}

type storyMember struct {
	silent  bool
	gen     elastic.Generation // of the last view that it was told
	fenced  elastic.Generation
	applied elastic.Step
}

func newStory(t *testing.T, d *datadriven.TestData) *story {
	st := &story{t: t, shards: 8, live: map[string]*storyMember{}, policy: elastic.Policy{Job: "j"}}
	for _, a := range d.CmdArgs {
		n, err := strconv.Atoi(a.Vals[0])
		require.NoError(t, err)
		switch a.Key {
		case "min":
			st.policy.Min = n
		case "max":
			st.policy.Max = n
		case "start":
			st.policy.Start = n
		case "shards":
			st.shards = n
		default:
			d.Fatalf(t, "unknown argument %s", a.Key)
		}
	}
	st.s = elastic.New(st.policy)
	return st
}

func (st *story) do(d *datadriven.TestData) string {
	st.out.Reset()
	for line := range strings.Lines(d.Input) {
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		late := len(words) > 1 && words[1] == "late"
		if at, err := time.ParseDuration(words[0]); err == nil {
			require.GreaterOrEqualf(st.t, at, st.now, "%s: time goes back", d.Pos)
			st.pass(at, late)
			words = words[1:]
		}
		if !late {
			st.event(d, words)
		}
	}
	return st.out.String()
}

// pass lets time pass: a tick and heartbeats every 100 ms.
func (st *story) pass(to time.Duration, late bool) {
	if late {
		st.now = to
		st.feed(elastic.Tick{})
		return
	}
	for next := st.now - st.now%(100*time.Millisecond) + 100*time.Millisecond; next <= to; next += 100 * time.Millisecond {
		st.now = next
		for _, id := range st.names() {
			if m := st.live[id]; !m.silent {
				st.feed(elastic.Heard{ID: elastic.MemberID(id), Generation: m.gen, Applied: m.applied})
			}
		}
		st.feed(elastic.Tick{})
	}
	st.now = to
}

func (st *story) names() []string {
	var out []string
	for id := range st.live {
		out = append(out, id)
	}
	slices.Sort(out)
	return out
}

func (st *story) event(d *datadriven.TestData, words []string) {
	verb, args := words[0], map[string]string{}
	var ids []string
	for i, w := range words[1:] {
		if k, v, ok := strings.Cut(w, "="); ok {
			args[k] = v
		} else if i == 0 {
			ids = strings.Split(w, ",")
		} else {
			args[w] = "yes"
		}
	}
	num := func(key string, or int64) int64 {
		if args[key] == "" {
			return or
		}
		n, err := strconv.ParseInt(args[key], 10, 64)
		require.NoErrorf(st.t, err, "%s: %s", d.Pos, key)
		return n
	}
	switch verb {
	case "wait":
	case "stop":
		st.feed(elastic.Stop{Reason: "cancelled"})
	case "crash":
		st.crash()
	case "crashing":
		st.crashing = true
	default:
		for i, name := range ids {
			st.memberEvent(d, verb, name, i, args, num)
		}
	}
}

func (st *story) memberEvent(d *datadriven.TestData, verb, name string, i int, args map[string]string, num func(string, int64) int64) {
	id := elastic.MemberID(name)
	if st.live[name] == nil {
		st.live[name] = &storyMember{}
	}
	m := st.live[name]
	m.applied = elastic.Step(num("applied", int64(m.applied)))
	gen := elastic.Generation(num("gen", int64(m.gen)))
	fence := elastic.Fence{
		Generation: max(m.fenced, m.gen), Applied: m.applied, HoldsState: args["nostate"] == "", HoldsReduced: args["reduced"] != "",
		Checkpoint: elastic.Step(num("ckpt", 0)), View: m.gen, Term: elastic.Generation(num("term", 0)),
	}
	switch verb {
	case "join":
		fence.Generation = max(fence.Generation, gen)
		host, class := args["host"], args["class"]
		if host == "" {
			host = "h"
		}
		if class == "" {
			class = "f32"
		}
		st.feed(elastic.Joined{
			Member: elastic.Member{ID: id, Addr: name + ":1", Host: host, Class: class, Rank: int(num("rank", int64(i)))},
			Fence:  fence, Shards: int(num("shards", int64(st.shards))),
		})
	case "fenced":
		g := elastic.Generation(num("gen", int64(st.s.Generation())))
		m.fenced, fence.Generation = g, g
		st.feed(elastic.Fenced{ID: id, Generation: g, Fence: fence})
	case "formed":
		st.feed(elastic.Formed{ID: id, Generation: gen})
	case "applied":
		require.NotEmptyf(st.t, args["step"], "%s", d.Pos)
		m.applied = elastic.Step(num("step", 0))
		st.feed(elastic.Heard{ID: id, Generation: gen, Applied: m.applied})
	case "suspect":
		st.feed(elastic.Suspected{By: id, Peer: elastic.MemberID(args["peer"]), Generation: gen, Reason: "read: connection reset"})
	case "finished":
		st.feed(elastic.Finished{ID: id, Generation: gen, Step: m.applied})
	case "lost":
		delete(st.live, name)
		st.feed(elastic.Lost{ID: id, Reason: "killed"})
	case "detach":
		m.silent = true
		st.feed(elastic.Detached{ID: id})
	case "silent":
		m.silent = true
	case "awake":
		m.silent = false
	case "depart":
		st.feed(elastic.Departed{ID: id, Reason: "the host drains"})
	default:
		d.Fatalf(st.t, "unknown verb %s", verb)
	}
	if verb == "join" {
		m.silent = false
	}
}

func (st *story) crash() {
	fmt.Fprintf(&st.out, "%8s  the coordinator crashes and is restored: generation %d\n", st.now, st.durable.Generation)
	st.s = elastic.Restore(st.policy, st.durable, st.now)
	st.crashing = false
	for _, m := range st.live {
		m.silent = true // until they attach again
	}
}

func (st *story) feed(e elastic.Event) {
	actions := st.s.Step(st.now, e)
	var kind, line string
	flush := func() {
		if line != "" {
			fmt.Fprintf(&st.out, "%8s  %s\n", st.now, line)
		}
		kind, line = "", ""
	}
	for _, a := range actions {
		k, head, item := st.describe(a)
		if k == "" || k != kind {
			flush()
			line = head
		}
		kind = k
		line += item
		if p, ok := a.(elastic.Persist); ok {
			st.durable = p.Record
			if st.crashing {
				flush()
				st.crash()
				return
			}
		}
	}
	flush()
}

// describe prints an action; those of one kind in a row share a line.
func (st *story) describe(a elastic.Action) (kind, head, item string) {
	switch a := a.(type) {
	case elastic.Persist:
		view := "none"
		if a.Record.View != nil {
			view = strconv.Itoa(int(a.Record.View.Generation))
		}
		s := fmt.Sprintf("persist  generation %d, view %s, ledger %s", a.Record.Generation, view, ledgerText(a.Record.Ledger))
		if a.Record.Ended != nil {
			s += fmt.Sprintf(", ended %d", a.Record.Ended.Code)
		}
		return "", s, ""
	case elastic.Prepare:
		return "prepare" + a.Reason, fmt.Sprintf("prepare  generation %d (%s):", a.Generation, a.Reason), " " + string(a.To)
	case elastic.Announce:
		if m := st.live[string(a.To)]; m != nil {
			m.gen, m.applied = a.View.Generation, max(m.applied, a.View.Resume)
		}
		rank := a.View.RankOf(a.To)
		p := a.View.Sync[rank]
		s := fmt.Sprintf(" %s=%v", a.To, a.View.Ranges[rank])
		if p.Kind != elastic.SyncNone {
			s += fmt.Sprintf("←%v%v", p.Kind, p.From)
		}
		return "announce", fmt.Sprintf("announce generation %d, resume %d:", a.View.Generation, a.View.Resume), s
	case elastic.Evict:
		if m := st.live[string(a.ID)]; m != nil {
			m.silent = true
		}
		s := fmt.Sprintf("evict    %s: %s", a.ID, a.Reason)
		if a.Final {
			s += " (for good)"
		}
		return "", s, ""
	case elastic.Note:
		s := fmt.Sprintf("note     %s", a.Kind)
		if a.ID != "" {
			s += " " + string(a.ID)
		}
		if a.Rank >= 0 {
			s += fmt.Sprintf(" rank=%d", a.Rank)
		}
		s += fmt.Sprintf(" gen=%d step=%d world=%d", a.Generation, a.Step, a.World)
		if a.Reason != "" {
			s += ": " + a.Reason
		}
		return "", s, ""
	case elastic.Ended:
		return "", fmt.Sprintf("ended    %d: %s", a.Code, a.Reason), ""
	}
	return "", fmt.Sprintf("%T", a), ""
}

func ledgerText(terms []elastic.Term) string {
	var parts []string
	for _, t := range terms {
		parts = append(parts, fmt.Sprintf("%d:%d–%d", t.Generation, t.First, t.Last))
	}
	return "[" + strings.Join(parts, " ") + "]"
}

func (st *story) show() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s, generation %d, step %d, ledger %s\n", st.s.Phase(), st.s.Generation(), st.s.Applied(), ledgerText(st.s.Ledger()))
	for _, m := range st.s.Members() {
		fmt.Fprintf(&b, "%s rank=%d %s\n", m.ID, m.Rank, m.Status)
	}
	return b.String()
}
