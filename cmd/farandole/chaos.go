package main

import (
	"fmt"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"
)

// A chaos script is a list of faults, each bound to a committed step:
//
//	script = action { ";" action }
//	action = "kill" "rank="N "step="N
//	       | "kill" "coordinator" "step="N
//	       | "stop" "rank="N "step="N "for="DURATION
//	       | "join" "step="N [ "count="N ]
//
// Spaces separate words, the order of the key=value words is free, and an empty action is allowed, so a
// script may end in ";".

// maxChaosActions and maxChaosCount bound what one script may ask for.
const (
	maxChaosActions = 10_000
	maxChaosCount   = 1_000
)

// chaosKind is what an action does.
type chaosKind int

const (
	chaosKill            chaosKind = iota // SIGKILL to a worker
	chaosStop                             // SIGSTOP to a worker, SIGCONT after a while
	chaosJoin                             // more slots
	chaosKillCoordinator                  // SIGKILL to the coordinator that run started
)

// chaosAction is one fault. It fires once, as soon as the job has committed Step.
type chaosAction struct {
	Kind  chaosKind
	Rank  int           // kill, stop
	Step  int64         // ≥ 0
	For   time.Duration // stop
	Count int           // join
}

// String is the action in the script's own syntax.
func (a chaosAction) String() string {
	switch a.Kind {
	case chaosKill:
		return fmt.Sprintf("kill rank=%d step=%d", a.Rank, a.Step)
	case chaosStop:
		return fmt.Sprintf("stop rank=%d step=%d for=%s", a.Rank, a.Step, a.For)
	case chaosJoin:
		if a.Count == 1 {
			return fmt.Sprintf("join step=%d", a.Step)
		}
		return fmt.Sprintf("join step=%d count=%d", a.Step, a.Count)
	default:
		return fmt.Sprintf("kill coordinator step=%d", a.Step)
	}
}

// chaosError is a mistake in a script. Off and Len are the bytes of the script that it is about.
type chaosError struct {
	Script   string
	Off, Len int
	Reason   string
}

// Error is the sentence, and below it the script with the token underlined.
func (e *chaosError) Error() string {
	line := strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, e.Script)
	pad := strings.Repeat(" ", len([]rune(line[:min(e.Off, len(line))])))
	mark := strings.Repeat("^", max(1, len([]rune(e.Script[e.Off:e.Off+e.Len]))))
	return fmt.Sprintf("--chaos: %s\n    %s\n    %s%s", e.Reason, line, pad, mark)
}

// chaosWord is one word of a script and where it stands.
type chaosWord struct {
	text string
	off  int
}

// parseChaos reads a script. The actions come back in the order of their steps; actions of one step keep
// the script's order. The error is a *chaosError.
func parseChaos(script string) ([]chaosAction, error) {
	var actions []chaosAction
	off := 0
	for part := range strings.SplitSeq(script, ";") {
		words := chaosWords(part, off)
		end := off + len(strings.TrimRight(part, " \t\r\n"))
		off += len(part) + 1
		if len(words) == 0 {
			continue
		}
		a, err := parseChaosAction(script, words, end)
		if err != nil {
			return nil, err
		}
		if len(actions) == maxChaosActions {
			return nil, &chaosError{script, words[0].off, len(words[0].text),
				fmt.Sprintf("a script has at most %d actions", maxChaosActions)}
		}
		actions = append(actions, a)
	}
	sort.SliceStable(actions, func(i, j int) bool { return actions[i].Step < actions[j].Step })
	return actions, nil
}

func chaosWords(part string, off int) []chaosWord {
	var words []chaosWord
	start := -1
	for i := 0; i <= len(part); i++ {
		space := i == len(part) || strings.IndexByte(" \t\r\n", part[i]) >= 0
		switch {
		case space && start >= 0:
			words = append(words, chaosWord{part[start:i], off + start})
			start = -1
		case !space && start < 0:
			start = i
		}
	}
	return words
}

// chaosKeys names the key=value words of each kind; all are required but count.
var chaosKeys = map[chaosKind][]string{
	chaosKill:            {"rank", "step"},
	chaosStop:            {"rank", "step", "for"},
	chaosJoin:            {"step", "count"},
	chaosKillCoordinator: {"step"},
}

// parseChaosAction reads one action; end is where its text ends, for what is missing.
func parseChaosAction(script string, words []chaosWord, end int) (chaosAction, error) {
	fail := func(w chaosWord, format string, args ...any) (chaosAction, error) {
		return chaosAction{}, &chaosError{script, w.off, len(w.text), fmt.Sprintf(format, args...)}
	}
	a := chaosAction{Count: 1}
	verb, rest := words[0], words[1:]
	switch verb.text {
	case "kill":
		a.Kind = chaosKill
		if len(rest) > 0 && rest[0].text == "coordinator" {
			a.Kind, rest = chaosKillCoordinator, rest[1:]
		}
	case "stop":
		a.Kind = chaosStop
	case "join":
		a.Kind = chaosJoin
	default:
		return fail(verb, "%q is no action; use kill, stop or join", verb.text)
	}
	keys := chaosKeys[a.Kind]
	seen := map[string]bool{}
	for _, w := range rest {
		key, value, ok := strings.Cut(w.text, "=")
		if !ok || !slices.Contains(keys, key) {
			return fail(w, "%q does not belong to %s; it takes %s=", w.text, verbOf(a.Kind), strings.Join(keys, "=, "))
		}
		if seen[key] {
			return fail(w, "%s= is given twice", key)
		}
		seen[key] = true
		if reason := a.set(key, value); reason != "" {
			return fail(w, "%s", reason)
		}
	}
	for _, key := range keys {
		if !seen[key] && key != "count" {
			missing := ""
			if key == "rank" && a.Kind == chaosKill {
				missing = " (or the word coordinator)"
			}
			return fail(chaosWord{off: end}, "%s needs %s=%s", verbOf(a.Kind), key, missing)
		}
	}
	return a, nil
}

func verbOf(k chaosKind) string {
	return [...]string{"kill", "stop", "join", "kill coordinator"}[k]
}

// set fills one field; the result says what is wrong with value, or is empty.
func (a *chaosAction) set(key, value string) string {
	if key == "for" {
		d, err := time.ParseDuration(value)
		if err != nil || d <= 0 {
			return fmt.Sprintf("for= wants a time above zero such as 3s or 500ms, not %q", value)
		}
		a.For = d
		return ""
	}
	n, err := strconv.ParseInt(value, 10, 32)
	if err != nil || n < 0 {
		return fmt.Sprintf("%s= wants a whole number from 0 on, not %q", key, value)
	}
	switch key {
	case "rank":
		a.Rank = int(n)
	case "step":
		a.Step = n
	case "count":
		if n < 1 || n > maxChaosCount {
			return fmt.Sprintf("count= wants a number from 1 to %d, not %d", maxChaosCount, n)
		}
		a.Count = int(n)
	}
	return ""
}
