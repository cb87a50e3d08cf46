package tcp

import (
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestABusyPeerIsNoLostPeer sends far more than the network holds to a peer that does not receive for many times
// Liveness, as a rank does that still computes.
func TestABusyPeerIsNoLostPeer(t *testing.T) {
	const much, liveness, looks = 64 << 20, 40 * time.Millisecond, 60
	socket, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer socket.Close()
	near, err := net.Dial("tcp", socket.Addr().String())
	require.NoError(t, err)
	defer near.Close()
	far, err := socket.Accept()
	require.NoError(t, err)
	defer far.Close()
	sent := make(chan error, 1)
	go func() {
		_, err := near.Write(make([]byte, much))
		sent <- err
	}()
	raw, err := near.(*net.TCPConn).SyscallConn()
	require.NoError(t, err)
	look := newLook(liveness)
	for range looks {
		require.NoError(t, raw.Control(func(fd uintptr) { require.Empty(t, look(int(fd))) }))
		time.Sleep(liveness / checksPerLiveness)
	}
	require.Empty(t, sent, "all of it went: the peer was not busy")
	_, err = io.CopyN(io.Discard, far, much)
	require.NoError(t, err)
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
