package collectivetest

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/farandole-ml/farandole/collective"
	"github.com/farandole-ml/farandole/collective/transport"
	"github.com/farandole-ml/farandole/elastic"
)

// Patience is a limit that only a hanging test reaches.
const Patience = time.Minute

// Listener is what every transport between processes has.
type Listener interface {
	Addr() string
	Connect(ctx context.Context, id transport.ID, addrs []string) (collective.Transport, error)
	Fence(gen elastic.Generation)
	Close() error
}

// ID is a rank's place in a generation of the job "test".
func ID(gen elastic.Generation, rank int) transport.ID {
	return transport.ID{Job: "test", Generation: gen, Rank: rank}
}

// ListenAll starts a listener for each rank, until the test ends, and gives their addresses.
func ListenAll[L Listener](t testing.TB, world int, listen func(rank int) (L, error)) ([]L, []string) {
	t.Helper()
	listeners, addrs := make([]L, world), make([]string, world)
	for r := range listeners {
		l, err := listen(r)
		require.NoError(t, err)
		t.Cleanup(func() { l.Close() })
		listeners[r], addrs[r] = l, l.Addr()
	}
	return listeners, addrs
}

// Connect has the listeners form one generation, which may fail. It gives the transports and the errors, by rank.
func Connect[L Listener](t testing.TB, listeners []L, addrs []string, gen elastic.Generation) ([]collective.Transport, []error) {
	ctx, cancel := context.WithTimeout(t.Context(), Patience)
	defer cancel()
	transports, errs := make([]collective.Transport, len(listeners)), make([]error, len(listeners))
	var wg sync.WaitGroup
	for r, l := range listeners {
		wg.Go(func() { transports[r], errs[r] = l.Connect(ctx, ID(gen, r), addrs) })
	}
	wg.Wait()
	return transports, errs
}

// Join is Connect, and must not fail.
func Join[L Listener](t testing.TB, listeners []L, addrs []string, gen elastic.Generation) []collective.Transport {
	t.Helper()
	transports, errs := Connect(t, listeners, addrs, gen)
	for r, err := range errs {
		require.NoError(t, err, "rank %d", r)
	}
	return transports
}

// Form makes listeners, has them join, and closes them: a group that stands needs none.
func Form[L Listener](t testing.TB, world int, listen func(rank int) (L, error)) []collective.Transport {
	t.Helper()
	listeners, addrs := ListenAll(t, world, listen)
	transports := Join(t, listeners, addrs, 1)
	for _, l := range listeners {
		require.NoError(t, l.Close())
	}
	return transports
}
