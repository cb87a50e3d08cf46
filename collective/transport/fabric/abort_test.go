//go:build fabric && cgo && linux

package fabric

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestAbortWhileALargeMessageArrives ends a group at many places within a message that libfabric moves by remote access.
// A library that ends such a transfer twice takes the process with it.
func TestAbortWhileALargeMessageArrives(t *testing.T) {
	errStop := errors.New("stop")
	for round := range 24 {
		ranks := form(t, 2, Config{Provider: "tcp"})
		b := make([]byte, 32<<20)
		sent := make(chan error, 1)
		go func() {
			for {
				if err := ranks[0].Send(1, b); err != nil {
					sent <- err
					return
				}
			}
		}()
		victim := ranks[round%2] // who sends, or who receives
		time.AfterFunc(time.Duration(round)*700*time.Microsecond, func() { victim.Abort(errStop) })
		got := make([]byte, len(b))
		var err error
		for err == nil {
			err = ranks[1].Recv(0, got)
		}
		other := <-sent
		if victim == ranks[1] {
			err, other = other, err
		}
		require.ErrorIs(t, other, errStop)
		require.Error(t, err)
		for _, r := range ranks {
			require.NoError(t, r.Close())
		}
	}
}
