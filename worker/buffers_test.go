package worker

import (
	"context"
	"io"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/farandole-ml/farandole/elastic"
)

func TestBuffersComeBack(t *testing.T) {
	l := newLinear(50, 8)
	free := 0
	l.before = func(_ context.Context, s elastic.Shard) error {
		if s.Step == 50 && s.Index == 0 {
			free = len(l.session.vec.free)
		}
		return nil
	}
	s, err := Join(t.Context(), Config{Logger: quiet()})
	require.NoError(t, err)
	s.stdout, s.stderr = io.Discard, io.Discard
	require.NoError(t, s.run(t.Context(), l))
	require.Positive(t, free)
	require.LessOrEqual(t, free+1, 1+3, "at most log2(S)+1")
}

// TestBuffersAreShared has workers whose vectors are large enough for the memory that they share, the first of them alone to begin
// with. One dies in the middle of a reduction; its memory is of no harm to the others.
func TestBuffersAreShared(t *testing.T) {
	const steps, shards = 12, 4
	large := func() *linear {
		l := newLinear(steps, shards)
		l.width = shareLen
		return l
	}
	want := alone(t, large())
	c := newCoordinator(t, elastic.Policy{Min: 1})
	g := gate{3, make(chan struct{})}
	shared := make([]bool, 3)
	start := func(n int, change func(*Config, *proc)) *proc {
		l := large()
		l.before = func(ctx context.Context, s elastic.Shard) error {
			v := &l.session.vec
			shared[n] = v.reduced != nil && v.shared[&v.reduced[0]].group != nil
			return g.before(ctx, s)
		}
		return launch(c, n, l, change)
	}
	procs := []*proc{start(0, nil)}
	c.atStep(3, "w0")
	procs = append(procs, start(1, nil), start(2, dieAt(c, Fault{Point: PointReduce, Step: 6, Rank: -1})))
	c.until("three", func() bool {
		return c.views[len(c.views)-1].RankOf("w1") >= 0 && c.views[len(c.views)-1].RankOf("w2") >= 0
	})
	close(g.open)
	require.ErrorIs(t, procs[2].wait(), errKilled)
	requireSame(c, want, procs[:2]...)
	for i, p := range procs[:2] {
		require.Truef(t, shared[i], "w%d, at last, reduces in memory that its peers can read", i)
		require.Empty(t, p.s.vec.shared, "after the end")
	}
}
