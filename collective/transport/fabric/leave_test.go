//go:build fabric && cgo && linux

package fabric

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/farandole-ml/farandole/collective"
)

// TestWhatWasSentArrivesAfterItsSenderHasLeft has a rank that leaves at once and another that reads late. The sizes are
// those of every way in which ofi_rxm sends.
func TestWhatWasSentArrivesAfterItsSenderHasLeft(t *testing.T) {
	for _, size := range []int{0, 100, smallBytes, 64 << 10, 300 << 10} {
		for _, stage := range []bool{false, true} {
			t.Run(fmt.Sprintf("%d bytes, staged %t", size, stage), func(t *testing.T) {
				group := form(t, 2, Config{Provider: "tcp", Stage: stage, Checksum: true})
				want := make([]byte, size)
				for i := range want {
					want[i] = byte(i * 7)
				}
				left := make(chan error, 1)
				go func() {
					for range ahead {
						if err := group[0].Send(1, want); err != nil {
							left <- err
							return
						}
					}
					left <- group[0].Close()
				}()
				time.Sleep(3 * linger / 2)
				require.Empty(t, left, "it has left before its messages were taken")
				for range ahead {
					got := make([]byte, size)
					require.NoError(t, group[1].Recv(0, got))
					require.Equal(t, want, got)
				}
				require.NoError(t, <-left)
				require.ErrorIs(t, group[1].Recv(0, nil), collective.ErrPeerLeft)
				require.NoError(t, group[1].Close())
			})
		}
	}
}

// TestSendToARankThatIsLeavingEnds has a rank that waits for its message to be taken and takes nothing itself.
func TestSendToARankThatIsLeavingEnds(t *testing.T) {
	ranks := form(t, 2, Config{Provider: "tcp"})
	require.NoError(t, ranks[0].Send(1, []byte("never read")))
	left := make(chan error, 1)
	go func() { left <- ranks[0].Close() }()
	p := ranks[1].(*group).peers[0]
	<-p.left
	require.Equal(t, (<-chan struct{})(p.left), p.end(opPiece))
	require.Equal(t, (<-chan struct{})(p.left), p.end(opSend+ahead-1))
	require.Equal(t, (<-chan struct{})(p.gone), p.end(opFill))
	require.Equal(t, (<-chan struct{})(p.gone), p.end(opAhead+ahead-1))
	select {
	case <-p.gone:
		t.Fatal("what it sent can still be taken")
	default:
	}
	require.ErrorIs(t, ranks[1].Send(0, make([]byte, 1<<20)), collective.ErrPeerLeft)
	require.NoError(t, <-left)
	require.NoError(t, ranks[1].Close())
}
