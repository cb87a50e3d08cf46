//go:build fabric && cgo && linux

package fabric

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestWhoWaitsNoLongerPassesPollingOn wakes one that waits by the token and not by the end of its operation: another that
// still waits would have nobody to poll for it.
func TestWhoWaitsNoLongerPassesPollingOn(t *testing.T) {
	ranks := form(t, 2, Config{Provider: "tcp"})
	g := ranks[0].(*group)
	p := g.peers[1]
	slot := &g.ep.slots[p.base+opPiece]
	g.ep.polling.Lock()
	for len(g.ep.passed) > 0 {
		<-g.ep.passed
	}
	slot.idle.Store(false)
	done := make(chan error, 1)
	go func() {
		_, err := g.await(p, opPiece)
		done <- err
	}()
	time.Sleep(20 * time.Millisecond) // it waits by now; if not, the test says nothing
	slot.idle.Store(true)
	g.ep.pass()
	require.NoError(t, <-done)
	require.Len(t, g.ep.passed, 1)
	g.ep.polling.Unlock()
	for _, r := range ranks {
		go r.Close()
	}
	for _, r := range ranks {
		require.NoError(t, r.Close())
	}
}
