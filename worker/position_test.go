package worker

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/farandole-ml/farandole/collective"
	"github.com/farandole-ml/farandole/collective/transport/inproc"
	"github.com/farandole-ml/farandole/elastic"
)

// TestAnswerWaitsForTheUpdate: what is answered to a Prepare stays true, so it waits for an update that has begun, and
// nothing begins after it.
func TestAnswerWaitsForTheUpdate(t *testing.T) {
	var answers []elastic.Fence
	p := newPosition(func(_ elastic.Generation, f elastic.Fence) { answers = append(answers, f) })
	g := &generation{view: &elastic.View{Generation: 1}}
	g.ctx, g.cancel = context.WithCancelCause(t.Context())
	p.gen, p.fence = g, elastic.Fence{Generation: 1, Applied: 4, HoldsState: true}
	ask := func(next elastic.Generation) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.fence.Generation, p.due = next, next
		if !p.busy {
			p.settled()
		}
	}

	require.True(t, p.begin(g))
	ask(2)
	require.Empty(t, answers)
	ask(3) // supersedes
	p.settle(func(f *elastic.Fence) { f.Applied = 5 })
	require.Equal(t, []elastic.Fence{{Generation: 3, Applied: 5, HoldsState: true}}, answers)

	require.False(t, p.begin(g), "fenced off")
	ask(4)
	require.Len(t, answers, 2, "at rest the answer comes at once")
}

func TestFirstEndCounts(t *testing.T) {
	p := newPosition(nil)
	p.end(0, nil)
	p.end(1, errKilled)
	require.Equal(t, &ending{0, nil}, p.ending())
	p.endWith(2, errKilled)
	require.Equal(t, &ending{2, errKilled}, p.ending())
}

// TestTransfer moves state in stripes and refuses what does not have the sender's hash.
func TestTransfer(t *testing.T) {
	session := func(fill float32) *Session {
		s, err := Join(t.Context(), Config{Logger: quiet()})
		require.NoError(t, err)
		v := make([]float32, messageLen/4+1000) // more than one message
		for i := range v {
			v[i] = fill * float32(i)
		}
		s.State("v", v)
		s.State("w", []float32{fill, fill + 1, fill + 2})
		return s
	}
	for k := range 3 {
		from, to := session(1), session(0)
		transports := inproc.New(2)
		pair := []*generation{{ctx: t.Context(), group: collective.New(transports[0])}, {ctx: t.Context(), group: collective.New(transports[1])}}
		sent := make(chan error, 1)
		go func() { sent <- from.sendAll(pair[0], 1, from.stripe(k, 3)...) }()
		require.NoError(t, to.receiveAll(pair[1], 0, to.stripe(k, 3)...))
		require.NoError(t, <-sent)
		require.Equal(t, from.stripe(k, 3), to.stripe(k, 3))
		require.NotEqual(t, from.stripe((k+1)%3, 3), to.stripe((k+1)%3, 3))

		go func() {
			_ = pair[0].group.Send(t.Context(), 1, make([]byte, 64))
			sent <- pair[0].group.Send(t.Context(), 1, make([]byte, 8)) // not the hash of zeros
		}()
		require.ErrorIs(t, to.receiveAll(pair[1], 0, make([]byte, 64)), errCorrupt)
		require.NoError(t, <-sent)
		for _, g := range pair {
			_ = g.group.Close()
		}
	}
}
