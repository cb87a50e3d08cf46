package stream

import (
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/farandole-ml/farandole/collective"
)

// TestAFailedSendHearsTheGoodbye lets a peer leave whose goodbye is behind messages that nobody has received.
func TestAFailedSendHearsTheGoodbye(t *testing.T) { each(t, testAFailedSendHearsTheGoodbye) }

func testAFailedSendHearsTheGoodbye(t *testing.T, network string) {
	message := make([]byte, 5000)
	sends := map[string]func(s *stream) error{
		"send": func(s *stream) error { return s.Send(1, message) },
		"try": func(s *stream) error {
			_, err := s.TrySend(1, message)
			return err
		},
		"meanwhile": func(s *stream) error {
			s.Meanwhile(func() { _, _ = s.TrySend(1, message) })
			for {
				if err := s.Recv(1, make([]byte, 10)); err != nil {
					return err
				}
			}
		},
	}
	for name, send := range sends {
		for _, streams := range []int{1, 3} {
			t.Run(fmt.Sprintf("%s/streams %d", name, streams), func(t *testing.T) {
				transports := connected(t, network, 2, streams, Config{Here: 1 << 20})
				defer transports[0].Close()
				for range 4 {
					require.NoError(t, transports[1].Send(0, make([]byte, 10)))
				}
				transports[1].Abort(errors.New("the disk is full"))
				var err error
				for err == nil { // the first may still find room
					err = send(transports[0].(*stream))
				}
				require.ErrorIs(t, err, collective.ErrPeerLeft)
				require.ErrorContains(t, err, "the disk is full")
			})
		}
	}
}

// TestAMutePeerIsLost: a peer that takes nothing and says nothing is given up at once, also while this rank receives.
func TestAMutePeerIsLost(t *testing.T) { each(t, testAMutePeerIsLost) }

func testAMutePeerIsLost(t *testing.T, network string) {
	if network == "tcp" {
		t.Skip("TCP tells nobody that the other side does not read any more")
	}
	for name, send := range map[string]func(s *stream) error{
		"send": func(s *stream) error { return s.Send(1, make([]byte, 10)) },
		"meanwhile": func(s *stream) error {
			s.Meanwhile(func() { _, _ = s.TrySend(1, make([]byte, 10)) })
			return s.Recv(1, make([]byte, 10))
		},
	} {
		t.Run(name, func(t *testing.T) {
			s, far := halfMesh(t, network, Config{Here: 1 << 20})
			require.NoError(t, far.(interface{ CloseRead() error }).CloseRead())
			require.ErrorIs(t, send(s), collective.ErrPeerLost)
		})
	}
}
