//go:build linux

package shm

import (
	"log/slog"
	"testing"

	"github.com/farandole-ml/farandole/collective"
	"github.com/farandole-ml/farandole/collective/collectivetest"
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

func listenHere(int) (*Listener, error) {
	return Listen("", Config{StageBytes: 16 << 10}) // several blocks in short arrays
}

// listen starts a listener for each rank and gives their addresses.
func listen(t testing.TB, world int) ([]*Listener, []string) {
	return collectivetest.ListenAll(t, world, listenHere)
}

// join forms one generation over the listeners.
func join(t testing.TB, listeners []*Listener, addrs []string, gen elastic.Generation) []collective.Transport {
	return collectivetest.Join(t, listeners, addrs, gen)
}

func connected(t testing.TB, world int) []collective.Transport {
	return collectivetest.Form(t, world, listenHere)
}

// patience is a limit that only a hanging test reaches.
const patience = collectivetest.Patience

// quiet is a log that nobody reads.
var quiet = slog.New(slog.DiscardHandler)
