package collective_test

import (
	"context"
	"encoding/json"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/farandole-ml/farandole/collective"
	"github.com/farandole-ml/farandole/collective/transport/inproc"
)

func TestTableJSON(t *testing.T) {
	table := collective.DefaultTable()
	require.NoError(t, table.Check())
	b, err := json.Marshal(table)
	require.NoError(t, err)
	again, err := collective.ParseTable(b)
	require.NoError(t, err)
	require.Equal(t, table, again)

	byHand, err := collective.ParseTable([]byte(`{"rules":[{"op":"all_reduce","max_world":4,"hosts":"one","max_bytes":100,"algorithm":"direct"},
		{"op":"reduce-scatter","algorithm":"ring"}]}`))
	require.NoError(t, err)
	require.Equal(t, collective.Direct, byHand.Choose(collective.OpAllReduce, 100, 4, collective.OneHost))
	require.Equal(t, collective.Auto, byHand.Choose(collective.OpAllReduce, 101, 4, collective.OneHost))
	require.Equal(t, collective.Auto, byHand.Choose(collective.OpAllReduce, 100, 5, collective.OneHost))
	require.Equal(t, collective.Auto, byHand.Choose(collective.OpAllReduce, 100, 4, collective.SeveralHosts))
	require.Equal(t, collective.Ring, byHand.Choose(collective.OpReduceScatter, 1<<30, 100, collective.SeveralHosts))
}

func TestTableRefuses(t *testing.T) {
	for text, says := range map[string]string{
		`{"rules":[{"op":"sum","algorithm":"ring"}]}`:                                    "no operation",
		`{"rules":[{"op":"send/recv","algorithm":"ring"}]}`:                              "no choice",
		`{"rules":[{"op":"broadcast","algorithm":"halving-doubling"}]}`:                  "choose one of binary-tree",
		`{"rules":[{"op":"all-reduce","algorithm":"fast"}]}`:                             "no algorithm",
		`{"rules":[{"op":"all-reduce","algorithm":"shared"}]}`:                           "cannot be done",
		`{"rules":[{"op":"all-reduce","algorithm":"ring","max_bytes":-1}]}`:              "limits",
		`{"rules":[{"op":"all-reduce","algorithm":"ring","min_world":3,"max_world":2}]}`: "limits",
		`{"rules":[{"op":"all-reduce","algorithm":"ring","hosts":"many"}]}`:              "no hosts",
		`{"rules":[{"op":"all-reduce","algorithm":"ring","color":"red"}]}`:               "unknown field",
		`{"rules":[]} {}`: "follows",
		`[1,2]`:           "cannot unmarshal",
	} {
		_, err := collective.ParseTable([]byte(text))
		require.ErrorContains(t, err, says, text)
	}
}

// TestTablesThatDifferAreFound gives one rank another table.
func TestTablesThatDifferAreFound(t *testing.T) {
	tuned := func(a collective.Algorithm) collective.Tuning {
		return collective.Tuning{Table: &collective.Table{Rules: []collective.Rule{{Op: collective.OpAllReduce, Choice: a}}}}
	}
	transports := inproc.New(2)
	groups := []*collective.Group{
		collective.NewTuned(transports[0], tuned(collective.Ring)), collective.NewTuned(transports[1], tuned(collective.BinaryTree)),
	}
	v := collective.Of(make([]float32, 10))
	require.Equal(t, collective.Ring, groups[0].Algorithm(&collective.Call{Kind: collective.OpAllReduce, Out: v, In: v}))
	var wg sync.WaitGroup
	var errs [2]error
	for r, g := range groups {
		wg.Go(func() {
			v := collective.Of(make([]float32, 10))
			errs[r] = g.AllReduce(context.Background(), v, v, collective.Sum)
		})
	}
	wg.Wait()
	for r, g := range groups {
		var step *collective.OutOfStepError
		require.ErrorAs(t, errs[r], &step)
		require.ErrorContains(t, errs[r], "ring")
		require.ErrorContains(t, errs[r], "binary-tree")
		require.NoError(t, g.Close())
	}
}
