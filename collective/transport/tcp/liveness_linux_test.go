package tcp

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestABusyPeerIsNoLostPeer lets a rank send far more than the network holds to one that does not receive for many
// times Liveness, as a rank does that still computes.
func TestABusyPeerIsNoLostPeer(t *testing.T) {
	const much = 32 << 20
	transports := mesh(t, 2, Config{Liveness: 40 * time.Millisecond})
	for _, tr := range transports {
		defer tr.Close()
	}
	sent := make(chan error, 1)
	go func() { sent <- transports[0].Send(1, make([]byte, much)) }()
	watch := &transports[0].(*transport).checks
	require.Eventually(t, func() bool { return watch.Load() > 60 }, patience, time.Millisecond)
	require.NoError(t, transports[1].Recv(0, make([]byte, much)))
	require.NoError(t, <-sent)
}

func TestSilence(t *testing.T) {
	const limit = time.Second
	cases := map[string]struct {
		info unix.TCPInfo
		lost bool
	}{
		"idle":                    {unix.TCPInfo{Last_ack_recv: 100_000}, false},
		"answering":               {unix.TCPInfo{Last_ack_recv: 900, Unacked: 3, Retransmits: 4}, false},
		"one loss":                {unix.TCPInfo{Last_ack_recv: 1100, Unacked: 3, Retransmits: 1}, false},
		"cut":                     {unix.TCPInfo{Last_ack_recv: 1100, Unacked: 3, Retransmits: 2}, true},
		"full window":             {unix.TCPInfo{Last_ack_recv: 5000, Probes: 1}, false},
		"full window, then a cut": {unix.TCPInfo{Last_ack_recv: 5000, Probes: 3}, true},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, c.lost, silence(&c.info, limit) != "")
		})
	}
}
