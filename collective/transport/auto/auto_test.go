package auto

import (
	"fmt"
	"log/slog"
	"net"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/farandole-ml/farandole/collective"
	"github.com/farandole-ml/farandole/collective/collectivetest"
)

func TestMain(m *testing.M) {
	if os.Getenv("SOAK_PATH") != "" {
		soakMain()
		return
	}
	collectivetest.AbortRank(func(rank int) (collectivetest.Listener, error) {
		return Listen("127.0.0.1:0", Config{Host: fmt.Sprintf("host%d", rank/2)})
	})
	goleak.VerifyTestMain(m)
}

// TestAborts strikes groups of processes on two hosts; BenchmarkAborts does it often, and says how long the others took to
// notice.
func TestAborts(t *testing.T) { collectivetest.Aborts(t, 24) }

func BenchmarkAborts(b *testing.B) { collectivetest.AbortTimes(b) }

// patience is a limit that only a hanging test reaches.
const patience = collectivetest.Patience

// connect forms a group whose ranks have the given settings.
func connect(t testing.TB, cfgs []Config) ([]collective.Transport, []error) {
	listeners, addrs := collectivetest.ListenAll(t, len(cfgs), func(rank int) (*Listener, error) {
		cfg := cfgs[rank]
		cfg.Logger = slog.New(slog.DiscardHandler)
		return Listen("127.0.0.1:0", cfg)
	})
	transports, errs := collectivetest.Connect(t, listeners, addrs, 1)
	for _, l := range listeners {
		require.NoError(t, l.Close()) // a group that stands needs no listener
	}
	return transports, errs
}

func ranks(of func(rank, world int) Config) collectivetest.Mesh {
	return func(t testing.TB, world int) []collective.Transport {
		var cfgs []Config
		for r := range world {
			cfgs = append(cfgs, of(r, world))
		}
		transports, errs := connect(t, cfgs)
		for r, err := range errs {
			require.NoError(t, err, "rank %d", r)
		}
		return transports
	}
}

// TestConformance has groups of several hosts; one on a single host is package shm's own.
func TestConformance(t *testing.T) {
	for name, of := range map[string]func(rank, world int) Config{
		"two hosts":                      func(r, world int) Config { return Config{Host: fmt.Sprintf("host%d", 2*r/world), Streams: 2} },
		"hosts of unequal size, in turn": func(r, _ int) Config { return Config{Host: []string{"a", "b", "a", "c", "a"}[r%5]} },
	} {
		t.Run(name, func(t *testing.T) {
			collectivetest.Run(t, ranks(of))
		})
	}
}

// The path is the best one: shared memory is told by its ability, the others by the connections that a network dials.
func TestTakesSharedMemoryOnOneHostAlone(t *testing.T) {
	for name, c := range map[string]struct {
		hosts  []string
		path   Path
		shared bool
	}{
		"one host":        {[]string{"", "", ""}, Any, true},
		"two hosts":       {[]string{"a", "a", "b"}, Any, false},
		"shm asked for":   {[]string{"", ""}, Shared, true},
		"uds asked for":   {[]string{"", ""}, Unix, false},
		"tcp asked for":   {[]string{"", ""}, TCP, false},
		"alone":           {[]string{""}, Any, false},
		"default is auto": {[]string{"", ""}, "", true},
	} {
		t.Run(name, func(t *testing.T) {
			var cfgs []Config
			for _, h := range c.hosts {
				cfgs = append(cfgs, Config{Host: h, Path: c.path})
			}
			transports, errs := connect(t, cfgs)
			for r, tr := range transports {
				require.NoError(t, errs[r])
				_, shared := tr.(collective.Sharer)
				require.Equal(t, c.shared, shared)
				if topology, ok := tr.(collective.Topology); ok && c.hosts[0] != "" {
					require.Equal(t, c.hosts[r], topology.Host(r))
				}
			}
			for _, tr := range transports {
				require.NoError(t, tr.Close())
			}
		})
	}
}

func TestDialsNearRanksByUnixSocket(t *testing.T) {
	here := newNetwork(Config{Host: "a", Path: Any, Logger: slog.Default()})
	l, err := here.Listen("127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	for name, c := range map[string]struct {
		from Config
		addr func(address) string
		want string
	}{
		"same host":          {Config{Host: "a", Path: Any}, address.String, "unix"},
		"another host":       {Config{Host: "b", Path: Any}, address.String, "tcp"},
		"plain address":      {Config{Host: "a", Path: Any}, func(a address) string { return a.tcp }, "tcp"},
		"no socket there":    {Config{Host: "a", Path: Any}, func(a address) string { a.unix = ""; return a.String() }, "tcp"},
		"only tcp asked for": {Config{Host: "a", Path: TCP}, address.String, "tcp"},
	} {
		t.Run(name, func(t *testing.T) {
			c.from.Logger = slog.Default()
			n := newNetwork(c.from)
			own, err := n.Listen("127.0.0.1:0")
			require.NoError(t, err)
			defer own.Close()
			conn, err := n.Dial(t.Context(), c.addr(here.own))
			require.NoError(t, err)
			defer conn.Close()
			require.Equal(t, c.want, conn.LocalAddr().Network())
			require.NoError(t, n.Trust(conn))
			got, err := l.Accept()
			require.NoError(t, err)
			require.NoError(t, here.Trust(got))
			got.Close()
		})
	}
}

func TestNoPath(t *testing.T) {
	for _, path := range []Path{Shared, Unix} {
		_, errs := connect(t, []Config{{Host: "a", Path: path}, {Host: "b", Path: path}})
		for _, err := range errs {
			require.ErrorIs(t, err, ErrNoPath)
			require.ErrorContains(t, err, string(path))
		}
	}
	_, err := Listen("127.0.0.1:0", Config{Path: "pigeon"})
	require.ErrorContains(t, err, "pigeon")
}

func TestAddresses(t *testing.T) {
	for _, a := range []address{
		{tcp: "10.0.0.1:4000"},
		{tcp: "[::1]:4000", host: "h", unix: "@0001", shared: "@0002"},
		{tcp: "10.0.0.1:4000", host: "h", shared: "@0002"},
		{tcp: "10.0.0.1:4000", host: "h"},
	} {
		got, err := parseAddress(a.String())
		require.NoError(t, err)
		require.Equal(t, a, got)
	}
	for _, s := range []string{"", "/", "a/b", "a/b/c", "a//-/-", "a/b/c/d/e", "/h/-/-", string(make([]byte, maxAddress+1))} {
		_, err := parseAddress(s)
		require.Error(t, err, "%q", s)
	}
}

func TestDoorsClose(t *testing.T) {
	n := newNetwork(Config{Host: "a", Logger: slog.Default()})
	l, err := n.Listen("127.0.0.1:0")
	require.NoError(t, err)
	waiting := make(chan error)
	go func() {
		_, err := l.Accept()
		waiting <- err
	}()
	require.NoError(t, l.Close())
	require.ErrorIs(t, <-waiting, net.ErrClosed)
	require.NoError(t, l.Close())
	require.Len(t, l.(*doors).all, 2)
}
