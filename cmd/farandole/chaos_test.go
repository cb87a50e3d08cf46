package main

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestParseChaos(t *testing.T) {
	for name, tc := range map[string]struct {
		script string
		want   []chaosAction
	}{
		"empty":          {"", nil},
		"only spaces":    {" ; \t;", nil},
		"kill":           {"kill rank=1 step=20", []chaosAction{{Kind: chaosKill, Rank: 1, Step: 20, Count: 1}}},
		"any order":      {"kill step=20 rank=1", []chaosAction{{Kind: chaosKill, Rank: 1, Step: 20, Count: 1}}},
		"stop":           {"stop rank=0 step=40 for=3s", []chaosAction{{Kind: chaosStop, Step: 40, For: 3 * time.Second, Count: 1}}},
		"join":           {"join step=30", []chaosAction{{Kind: chaosJoin, Step: 30, Count: 1}}},
		"join more":      {"join step=30 count=2;", []chaosAction{{Kind: chaosJoin, Step: 30, Count: 2}}},
		"coordinator":    {"kill coordinator step=50", []chaosAction{{Kind: chaosKillCoordinator, Step: 50, Count: 1}}},
		"sorted, stable": {"join step=9; kill rank=2 step=5; kill rank=1 step=5", []chaosAction{{Kind: chaosKill, Rank: 2, Step: 5, Count: 1}, {Kind: chaosKill, Rank: 1, Step: 5, Count: 1}, {Kind: chaosJoin, Step: 9, Count: 1}}},
		"lines":          {"join step=1\n;\nkill\trank=0 step=2\n", []chaosAction{{Kind: chaosJoin, Step: 1, Count: 1}, {Kind: chaosKill, Step: 2, Count: 1}}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := parseChaos(tc.script)
			require.NoError(t, err)
			require.Equal(t, tc.want, got)
		})
	}
}

func TestParseChaosPointsAtTheToken(t *testing.T) {
	for name, tc := range map[string]struct{ script, token, reason string }{
		"verb":            {"join step=1; explode rank=1 step=2", "explode", `"explode" is no action; use kill, stop or join`},
		"key":             {"kill rnak=1 step=2", "rnak=1", `"rnak=1" does not belong to kill; it takes rank=, step=`},
		"key of another":  {"kill rank=1 step=2 for=3s", "for=3s", `"for=3s" does not belong to kill; it takes rank=, step=`},
		"bare word":       {"stop coordinator step=2", "coordinator", `"coordinator" does not belong to stop; it takes rank=, step=, for=`},
		"twice":           {"join step=2 step=3", "step=3", "step= is given twice"},
		"number":          {"kill rank=one step=2", "rank=one", `rank= wants a whole number from 0 on, not "one"`},
		"negative":        {"kill rank=1 step=-2", "step=-2", `step= wants a whole number from 0 on, not "-2"`},
		"duration":        {"stop rank=1 step=2 for=3", "for=3", `for= wants a time above zero such as 3s or 500ms, not "3"`},
		"zero count":      {"join step=2 count=0", "count=0", "count= wants a number from 1 to 1000, not 0"},
		"missing step":    {"kill rank=1; join step=3", "", "kill needs step="},
		"missing rank":    {"kill step=1", "", "kill needs rank= (or the word coordinator)"},
		"rank of coord":   {"kill coordinator rank=1 step=2", "rank=1", `"rank=1" does not belong to kill coordinator; it takes step=`},
		"after two bytes": {"kill ränk=1 step=2", "ränk=1", `"ränk=1" does not belong to kill; it takes rank=, step=`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := parseChaos(tc.script)
			var ce *chaosError
			require.True(t, errors.As(err, &ce))
			require.Equal(t, tc.reason, ce.Reason)
			require.Equal(t, tc.token, tc.script[ce.Off:ce.Off+ce.Len])
			lines := strings.Split(err.Error(), "\n")
			require.Len(t, lines, 3)
			require.Equal(t, len([]rune(tc.script[:ce.Off])), strings.Index(lines[2], "^")-4, "the marks stand below the token")
		})
	}
}

func FuzzParseChaos(f *testing.F) {
	for _, s := range []string{"", "kill rank=1 step=20; join step=30 count=2; stop rank=0 step=40 for=3s; kill coordinator step=50",
		"kill ränk=1", ";;", "join step=99999999999", "kill rank= step=", "stop rank=1 step=1 for=-1s"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, script string) {
		actions, err := parseChaos(script)
		if err != nil {
			require.NotEmpty(t, err.Error())
			return
		}
		// What was understood, written down again, means the same.
		text := make([]string, len(actions))
		for i, a := range actions {
			text[i] = a.String()
			require.GreaterOrEqual(t, a.Step, int64(0))
			require.GreaterOrEqual(t, a.Rank, 0)
			require.GreaterOrEqual(t, a.Count, 1)
		}
		again, err := parseChaos(strings.Join(text, "; "))
		require.NoError(t, err)
		require.Equal(t, len(actions), len(again))
		for i := range actions {
			require.Equal(t, actions[i], again[i])
		}
	})
}
