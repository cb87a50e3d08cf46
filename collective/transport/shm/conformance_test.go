//go:build linux

package shm

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/farandole-ml/farandole/collective"
	"github.com/farandole-ml/farandole/collective/collectivetest"
	"github.com/farandole-ml/farandole/collective/transport"
	"github.com/farandole-ml/farandole/elastic"
)

func TestConformance(t *testing.T) {
	t.Run("shared", func(t *testing.T) { collectivetest.Run(t, connected) })
	t.Run("messages", func(t *testing.T) {
		collectivetest.Run(t, func(t testing.TB, world int) []collective.Transport {
			transports := connected(t, world)
			for r, tr := range transports {
				transports[r] = messenger{tr.(*member)}
			}
			return transports
		})
	})
}

// messenger hides that a member shares memory, so that every operation goes by messages.
type messenger struct{ m *member }

func (m messenger) Rank() int                              { return m.m.Rank() }
func (m messenger) World() int                             { return m.m.World() }
func (m messenger) Send(to int, b []byte) error            { return m.m.Send(to, b) }
func (m messenger) TrySend(to int, b []byte) (bool, error) { return m.m.TrySend(to, b) }
func (m messenger) Recv(from int, b []byte) error          { return m.m.Recv(from, b) }
func (m messenger) Mark(op collective.Op)                  { m.m.Mark(op) }
func (m messenger) Abort(cause error)                      { m.m.Abort(cause) }
func (m messenger) Close() error                           { return m.m.Close() }

// listen starts a listener for each rank and gives their addresses.
func listen(t testing.TB, world int) ([]*Listener, []string) {
	listeners := make([]*Listener, world)
	addrs := make([]string, world)
	for r := range listeners {
		l, err := Listen("", Config{StageBytes: 16 << 10}) // several blocks in short arrays
		require.NoError(t, err)
		t.Cleanup(func() { l.Close() })
		listeners[r], addrs[r] = l, l.Addr()
	}
	return listeners, addrs
}

// patience is a limit that only a hanging test reaches.
const patience = time.Minute

// join forms one generation over the listeners.
func join(t testing.TB, listeners []*Listener, addrs []string, gen elastic.Generation) []collective.Transport {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	transports := make([]collective.Transport, len(listeners))
	errs := make([]error, len(listeners))
	var wg sync.WaitGroup
	for r, l := range listeners {
		wg.Go(func() {
			transports[r], errs[r] = l.Connect(ctx, transport.ID{Job: "test", Generation: gen, Rank: r}, addrs)
		})
	}
	wg.Wait()
	for r, err := range errs {
		require.NoError(t, err, "rank %d", r)
	}
	return transports
}

func connected(t testing.TB, world int) []collective.Transport {
	listeners, addrs := listen(t, world)
	transports := join(t, listeners, addrs, 1)
	for _, l := range listeners {
		require.NoError(t, l.Close()) // a group that stands needs no listener
	}
	return transports
}

// quiet is a log that nobody reads.
var quiet = slog.New(slog.DiscardHandler)
