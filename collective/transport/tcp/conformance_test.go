package tcp

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/farandole-ml/farandole/collective"
	"github.com/farandole-ml/farandole/collective/collectivetest"
)

func TestMain(m *testing.M) {
	collectivetest.AbortRank(func() (collectivetest.Listener, error) { return Listen("127.0.0.1:0", Config{}) })
	goleak.VerifyTestMain(m)
}

// TestAborts strikes groups of processes; BenchmarkAborts does it often, and says how long the others took to notice.
func TestAborts(t *testing.T) { collectivetest.Aborts(t, 24) }

func BenchmarkAborts(b *testing.B) { collectivetest.AbortTimes(b) }

func TestConformance(t *testing.T) {
	collectivetest.Run(t, func(t testing.TB, world int) []collective.Transport {
		return connected(t, world, Config{Checksum: world%2 == 0, Streams: 1 + world%3})
	})
}

// listen starts a listener for each rank and gives their addresses.
func listen(t testing.TB, world int, cfg Config) ([]*Listener, []string) {
	listeners := make([]*Listener, world)
	addrs := make([]string, world)
	for r := range listeners {
		l, err := Listen("127.0.0.1:0", cfg)
		require.NoError(t, err)
		t.Cleanup(func() { l.Close() })
		listeners[r], addrs[r] = l, l.Addr()
	}
	return listeners, addrs
}

// patience is a limit that only a hanging test reaches.
const patience = time.Minute

func connected(t testing.TB, world int, cfg Config) []collective.Transport {
	listeners, addrs := listen(t, world, cfg)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	transports := make([]collective.Transport, world)
	errs := make([]error, world)
	var wg sync.WaitGroup
	for r, l := range listeners {
		wg.Go(func() {
			transports[r], errs[r] = l.Connect(ctx, ID{Job: "test", Generation: 1, Rank: r}, addrs)
		})
	}
	wg.Wait()
	for _, l := range listeners {
		require.NoError(t, l.Close()) // a group that stands needs no listener
	}
	for r, err := range errs {
		require.NoError(t, err, "rank %d", r)
	}
	return transports
}
