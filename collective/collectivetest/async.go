package collectivetest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/farandole-ml/farandole/collective"
)

// testAsync starts operations without waiting for them.
func testAsync(t *testing.T, mesh Mesh) {
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	t.Run("several in flight", func(t *testing.T) {
		leakFree(t)
		c := newCluster(t, mesh(t, 3), tunings["many chunks"])
		defer c.close(t)
		var shapes []shape
		rng := rand.New(rand.NewPCG(7, 7))
		for range collective.MaxInFlight + 10 {
			shapes = append(shapes, shape{kind: kinds[rng.IntN(len(kinds))]}.draw(rng, 3))
		}
		c.must(t, func(g *collective.Group) error {
			errs := make(chan error, len(shapes))
			handles := make([]*collective.Handle, len(shapes))
			started := make([]chan struct{}, len(shapes)+1)
			for i := range started {
				started[i] = make(chan struct{})
			}
			close(started[0])
			for i, s := range shapes {
				go func() { // each has its own buffers and checks them when its handle is done
					errs <- s.run(g, func(call *collective.Call) error {
						<-started[i]
						handles[i] = g.Start(ctx, *call)
						close(started[i+1])
						return handles[i].Wait()
					}, false)
				}()
			}
			<-started[len(shapes)]
			last := shape{kind: collective.OpAllReduce, elements: 10} // a synchronous one takes its turn
			err := last.run(g, func(call *collective.Call) error { return g.Do(ctx, call) }, false)
			for i, h := range handles {
				select {
				case <-h.Done():
				default:
					return errors.New("a synchronous operation overtook one that was started")
				}
				if h.Wait() != nil || handles[i].Wait() != nil {
					return h.Wait()
				}
			}
			for range shapes {
				err = errors.Join(err, <-errs)
			}
			return err
		})
	})
	t.Run("a failure fails the later ones", func(t *testing.T) {
		leakFree(t)
		c := newCluster(t, mesh(t, 2), collective.Tuning{})
		defer c.close(t)
		errs := c.each(func(g *collective.Group) error {
			good := g.Start(ctx, collective.Call{Kind: collective.OpBarrier})
			bad := g.Start(ctx, collective.Call{Kind: collective.OpBroadcast, Root: 5})
			later := g.Start(ctx, collective.Call{Kind: collective.OpBarrier})
			err := bad.Wait()
			if early := good.Wait(); early != nil && early != err { //nolint:errorlint // the very same: the other rank's end may come before this one's barrier is over
				return fmt.Errorf("the operation before failed with %w, not %w", early, err)
			}
			for _, h := range []*collective.Handle{later, g.Start(ctx, collective.Call{Kind: collective.OpBarrier})} {
				if late := h.Wait(); late != err { //nolint:errorlint // the very same
					return fmt.Errorf("a later operation failed with %w, not %w", late, err)
				}
			}
			return err
		})
		misused := 0
		for r, err := range errs {
			if errors.Is(err, collective.ErrMisuse) {
				misused++
			} else {
				requirePeer(t, err, 1-r)
			}
		}
		require.Positive(t, misused)
	})
	for name, end := range map[string]func(g *collective.Group){
		"close": func(g *collective.Group) { g.Close() },
		"abort": func(g *collective.Group) { g.Abort(collective.ErrClosed) },
	} {
		t.Run(name, func(t *testing.T) {
			leakFree(t)
			c := newCluster(t, mesh(t, 2), collective.Tuning{})
			defer c.close(t)
			var handles []*collective.Handle
			for range 5 { // the other rank never comes
				handles = append(handles, c.groups[0].Start(ctx, collective.Call{Kind: collective.OpBarrier}))
			}
			end(c.groups[0])
			for _, h := range handles {
				require.ErrorIs(t, h.Wait(), collective.ErrClosed)
			}
		})
	}
	t.Run("context", func(t *testing.T) {
		leakFree(t)
		c := newCluster(t, mesh(t, 2), collective.Tuning{})
		defer c.close(t)
		waits, cancel := context.WithCancelCause(ctx)
		first := c.groups[0].Start(ctx, collective.Call{Kind: collective.OpBarrier})
		second := make(chan error)
		go func() { second <- c.groups[0].Barrier(waits) }()
		cancel(errTest) // before or in its turn
		require.ErrorIs(t, <-second, errTest)
		require.ErrorIs(t, first.Wait(), errTest)
	})
}
