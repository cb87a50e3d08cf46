package mesh

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is a limit that only a hanging test reaches.
const patience = time.Minute

// over is a network of the standard library.
type over string

func (o over) Name() string { return string(o) }

func (o over) Listen(addr string) (net.Listener, error) { return net.Listen(string(o), addr) }

func (o over) Dial(ctx context.Context, addr string) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, string(o), addr)
}

func (o over) Trust(net.Conn) error { return nil }

// anywhere is where a listener of the network binds when it does not matter.
func anywhere(n Network) string {
	if n.Name() == "unix" {
		return ""
	}
	return "127.0.0.1:0"
}

// listen starts a listener for each rank and gives their addresses.
func listen(t testing.TB, n Network, world int, cfg Config) ([]*Listener, []string) {
	cfg.FlagNames = []string{"checksums"}
	listeners := make([]*Listener, world)
	addrs := make([]string, world)
	for r := range listeners {
		l, err := Listen(n, anywhere(n), cfg)
		require.NoError(t, err)
		t.Cleanup(func() { l.Close() })
		listeners[r], addrs[r] = l, l.Addr()
	}
	return listeners, addrs
}

func TestHandshake(t *testing.T) {
	tests := []struct {
		name string
		run  func(t *testing.T, n Network)
	}{
		{"an early peer waits", testAnEarlyPeerWaits},
		{"an early peer is told to try again", testAnEarlyPeerIsToldToTryAgain},
		{"early peers are bounded", testEarlyPeersAreBounded},
		{"a peer that is not up yet is dialled again", testAPeerThatIsNotUpYetIsDialledAgain},
		{"a lower generation is refused", testALowerGenerationIsRefused},
		{"a fence ends a formation", testAFenceEndsAFormation},
		{"a wrong peer is refused", testAWrongPeerIsRefused},
		{"a lost handshake leaves the place free", testALostHandshakeLeavesThePlaceFree},
		{"connect names who is missing", testConnectNamesWhoIsMissing},
		{"connect is once per generation", testConnectIsOncePerGeneration},
		{"garbage changes nothing", testGarbageChangesNothing},
		{"silent clients keep nobody out", testSilentClientsKeepNobodyOut},
		{"a slow handshake ends", testASlowHandshakeEnds},
	}
	for _, n := range []Network{over("tcp"), over("unix")} {
		for _, test := range tests {
			t.Run(n.Name()+"/"+test.name, func(t *testing.T) { test.run(t, n) })
		}
	}
}

// distrust lets nobody in.
type distrust struct{ over }

func (distrust) Trust(net.Conn) error { return ErrUntrusted }

func TestNobodyUntrustedGetsIn(t *testing.T) {
	n := over("tcp")
	trusting, _ := listen(t, n, 1, Config{})
	wary, err := Listen(distrust{n}, anywhere(n), Config{})
	require.NoError(t, err)
	defer wary.Close()
	addrs := []string{wary.Addr(), trusting[0].Addr()}
	c, err := n.Dial(t.Context(), wary.Addr())
	require.NoError(t, err)
	defer c.Close()
	_, err = c.Read(make([]byte, 1))
	require.Error(t, err, "it waits for a hello of somebody whom it does not trust")
	_, err = wary.Connect(t.Context(), id(1, 1), []string{trusting[0].Addr(), addrs[0]})
	require.ErrorIs(t, err, ErrUntrusted, "it says hello to somebody whom it does not trust")
}

// TestStreams forms meshes of pairs with several connections.
func TestStreams(t *testing.T) {
	for name, c := range map[string]struct{ streams [3]int }{
		"one":       {[3]int{1, 1, 1}},
		"three":     {[3]int{3, 3, 3}},
		"different": {[3]int{4, 1, 2}},
		"too many":  {[3]int{100, 100, 100}},
	} {
		t.Run(name, func(t *testing.T) {
			var l []*Listener
			var addrs []string
			for _, streams := range c.streams {
				one, addr := listen(t, over("tcp"), 1, Config{Streams: streams})
				l, addrs = append(l, one...), append(addrs, addr...)
			}
			var attempts []<-chan attempt
			for r := range l {
				attempts = append(attempts, connect(t, l[r], id(1, r), addrs))
			}
			formed := requireWorks(t, attempts...)
			for r, conns := range formed {
				for peer, group := range conns {
					if peer != r {
						require.Len(t, group, min(c.streams[r], c.streams[peer], MaxStreams))
					}
				}
			}
		})
	}
}
