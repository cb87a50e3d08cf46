package collectivetest

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/farandole-ml/farandole/collective"
)

// hooked calls before with the number of each Send and Recv, from 0.
type hooked struct {
	collective.Transport
	calls  atomic.Int64
	before func(call int64)
}

func (h *hooked) Send(to int, b []byte) error {
	h.before(h.calls.Add(1) - 1)
	return h.Transport.Send(to, b)
}

func (h *hooked) Recv(from int, b []byte) error {
	h.before(h.calls.Add(1) - 1)
	return h.Transport.Recv(from, b)
}

func (h *hooked) Mark(op collective.Op) {
	if m, ok := h.Transport.(collective.Marker); ok {
		m.Mark(op)
	}
}

// Host is the transport's answer; the same for all ranks, as without a Topology, when it has none.
func (h *hooked) Host(rank int) string {
	if t, ok := h.Transport.(collective.Topology); ok {
		return t.Host(rank)
	}
	return ""
}

// hook gives tr with before called at every use: see hooked, and with each operation in shared memory.
func hook(tr collective.Transport, before func(call int64)) collective.Transport {
	h := &hooked{Transport: tr, before: before}
	if s, ok := tr.(collective.Sharer); ok {
		return &hookedSharer{hookedMemory{h, s.Shared()}}
	}
	if s, ok := tr.(collective.HostSharer); ok && s.SharedOnHost() != nil {
		return &hookedHostSharer{hookedMemory{h, s.SharedOnHost()}}
	}
	return h
}

// hookedSharer is hooked for a transport whose ranks share memory, hookedHostSharer where those of a host do.
type (
	hookedSharer     struct{ hookedMemory }
	hookedHostSharer struct{ hookedMemory }
)

func (h *hookedSharer) Shared() collective.SharedMemory           { return h }
func (h *hookedHostSharer) SharedOnHost() collective.SharedMemory { return h }

type hookedMemory struct {
	*hooked
	memory collective.SharedMemory
}

func (h *hookedMemory) Do(op collective.Op, c *collective.Call) (bool, error) {
	h.before(h.calls.Add(1) - 1)
	return h.memory.Do(op, c)
}

// requirePeer checks that err blames rank.
func requirePeer(t testing.TB, err error, rank int) {
	t.Helper()
	var pe *collective.PeerError
	require.ErrorAs(t, err, &pe)
	require.Equal(t, rank, pe.Rank, "%v", err)
}

// forever runs all operations again and again until one fails.
func forever(ctx context.Context, g *collective.Group, elements int) error {
	for {
		for _, op := range operations {
			if err := op.run(ctx, g, elements); err != nil {
				return err
			}
		}
	}
}

// requireDead checks that every operation on a rank gives its first error, at once.
func requireDead(t testing.TB, g *collective.Group, first error) {
	t.Helper()
	for _, op := range operations {
		require.Equal(t, first, op.run(context.Background(), g, 10), op.name)
	}
	require.Equal(t, first, g.Send(context.Background(), (g.Rank()+1)%g.World(), nil))
}

var errTest = errors.New("ended by the test")

// strike runs all operations on world ranks and calls blow on rank 1 at its call-th use of the transport. The
// error of rank 1 must be wanted, the others must blame a peer, and one of them rank 1.
func strike(t *testing.T, mesh Mesh, world int, tuning collective.Tuning, call int64, wanted error, blow func(g *collective.Group, tr collective.Transport, cancel context.CancelCauseFunc)) {
	t.Helper()
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	transports := mesh(t, world)
	var c *cluster
	inner := transports[1]
	ready := make(chan struct{})
	transports[1] = hook(inner, func(n int64) {
		if n == call {
			<-ready
			blow(c.groups[1], inner, cancel)
		}
	})
	c = newCluster(t, transports, tuning)
	close(ready)
	defer c.close(t)
	errs := c.each(func(g *collective.Group) error {
		if g.Rank() == 1 {
			return forever(ctx, g, 3000)
		}
		return forever(context.Background(), g, 3000)
	})
	require.ErrorIs(t, errs[1], wanted)
	blamed := false
	for r, err := range errs {
		requireDead(t, c.groups[r], err)
		if r == 1 {
			continue
		}
		var pe *collective.PeerError
		require.ErrorAs(t, err, &pe, "rank %d", r)
		require.NotEqual(t, r, pe.Rank, "%v", err)
		require.NotErrorIs(t, err, wanted, "a peer's cause is not this rank's")
		blamed = blamed || pe.Rank == 1
	}
	require.True(t, blamed, "nobody blames rank 1: %v", errs)
}

// strikes spreads calls over the operations: one round of them has some dozens.
func strikes(t *testing.T, mesh Mesh, wanted error, blow func(g *collective.Group, tr collective.Transport, cancel context.CancelCauseFunc)) {
	for _, p := range grid(2, 3, 5) {
		t.Run(fmt.Sprintf("world %d/%s", p.world, p.name), func(t *testing.T) {
			leakFree(t)
			for call := int64(0); call < 120; call += 29 {
				strike(t, mesh, p.world, p.tuning, call, wanted, blow)
			}
		})
	}
}

// testCancel ends contexts while operations run.
func testCancel(t *testing.T, mesh Mesh) {
	t.Run("cause", func(t *testing.T) {
		strikes(t, mesh, collective.ErrGenerationChanged, func(_ *collective.Group, _ collective.Transport, cancel context.CancelCauseFunc) {
			cancel(fmt.Errorf("generation 7 is due: %w", collective.ErrGenerationChanged))
		})
	})
	t.Run("deadline", func(t *testing.T) {
		for _, op := range operations {
			t.Run(op.name, func(t *testing.T) {
				leakFree(t)
				c := newCluster(t, mesh(t, 3), collective.Tuning{})
				defer c.close(t)
				errs := c.each(func(g *collective.Group) error {
					if g.Rank() == 2 {
						return nil // never takes part
					}
					ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
					defer cancel()
					if err := op.run(ctx, g, 1000); err != nil {
						return err
					}
					return g.Barrier(ctx) // a root only sends
				})
				require.True(t, errors.Is(errs[0], context.DeadlineExceeded) || errors.Is(errs[1], context.DeadlineExceeded), "%v", errs)
				require.Error(t, errs[0])
				require.Error(t, errs[1])
				require.Error(t, c.groups[2].Barrier(context.Background()))
			})
		}
	})
	t.Run("before", func(t *testing.T) {
		c := newCluster(t, mesh(t, 1), collective.Tuning{})
		defer c.close(t)
		ctx, cancel := context.WithCancelCause(context.Background())
		cancel(errTest)
		err := c.groups[0].Barrier(ctx)
		require.ErrorIs(t, err, errTest)
		require.ErrorIs(t, c.groups[0].Barrier(context.Background()), errTest)
	})
	t.Run("after", func(t *testing.T) {
		c := newCluster(t, mesh(t, 2), collective.Tuning{})
		defer c.close(t)
		c.must(t, func(g *collective.Group) error {
			ctx, cancel := context.WithCancelCause(context.Background())
			err := g.Barrier(ctx)
			cancel(errTest) // no operation runs: the group lives
			return err
		})
		c.must(t, func(g *collective.Group) error { return g.Barrier(context.Background()) })
	})
}

// testAbort ends groups and transports while operations run.
func testAbort(t *testing.T, mesh Mesh) {
	t.Run("group", func(t *testing.T) {
		strikes(t, mesh, errTest, func(g *collective.Group, _ collective.Transport, _ context.CancelCauseFunc) {
			g.Abort(errTest)
			g.Abort(errors.New("a later cause"))
		})
	})
	t.Run("transport", func(t *testing.T) {
		strikes(t, mesh, errTest, func(_ *collective.Group, tr collective.Transport, _ context.CancelCauseFunc) {
			tr.Abort(errTest)
			tr.Abort(errors.New("a later cause"))
		})
	})
	t.Run("close", func(t *testing.T) {
		strikes(t, mesh, collective.ErrClosed, func(_ *collective.Group, tr collective.Transport, _ context.CancelCauseFunc) {
			tr.Close()
		})
	})
	t.Run("point to point", func(t *testing.T) {
		leakFree(t)
		c := newCluster(t, mesh(t, 2), collective.Tuning{})
		defer c.close(t)
		entered := make(chan struct{})
		errs := c.each(func(g *collective.Group) error {
			if g.Rank() == 1 {
				<-entered
				g.Abort(errTest)
				return nil
			}
			close(entered)
			return g.Recv(context.Background(), 1, make([]byte, 1))
		})
		requirePeer(t, errs[0], 1)
	})
}

// testClose checks that a rank may leave as soon as its last operation is done, whatever the others still do.
func testClose(t *testing.T, mesh Mesh) {
	for _, p := range grid(1, 2, 3, 4, 5, 6, 7, 8) {
		t.Run(fmt.Sprintf("%s/world %d", p.name, p.world), func(t *testing.T) {
			leakFree(t)
			for _, op := range operations {
				c := newCluster(t, mesh(t, p.world), p.tuning)
				for r, err := range c.each(func(g *collective.Group) error {
					if err := op.run(context.Background(), g, 20000); err != nil {
						return err
					}
					return g.Close()
				}) {
					require.NoError(t, err, "rank %d, %s", r, op.name)
				}
				require.ErrorIs(t, c.groups[0].Barrier(context.Background()), collective.ErrClosed)
				c.close(t)
			}
		})
	}
}
