package gossip

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

// memberlist does not wait for its own goroutines when it is shut down, but they end soon after; goleak waits for them.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var key = bytes.Repeat([]byte{7}, KeySize)

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

// brisk makes a death known within a second or two; tests do not depend on how long it takes.
func brisk(c *memberlist.Config) {
	c.ProbeInterval, c.ProbeTimeout, c.GossipInterval = 200*time.Millisecond, 200*time.Millisecond, 20*time.Millisecond
}

func config(name, role string) Config {
	return Config{
		Self: Peer{Name: name, Role: role, Addr: "127.0.0.1:7000", Host: "host-of-" + name},
		Key:  key, Preset: Local, Logger: quiet(), tune: brisk,
	}
}

func start(t *testing.T, cfg Config) *Node {
	n, err := Start(t.Context(), cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, n.Close()) })
	return n
}

// patience bounds a wait that never comes near it unless something is broken.
func patience(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// await reads n's events until its peers have exactly these names. It gives the events that it read.
func await(t *testing.T, n *Node, names ...string) (seen []Event) {
	ctx := patience(t)
	for {
		var have []string
		for _, p := range n.Peers() {
			have = append(have, p.Name)
		}
		if slices.Equal(have, names) {
			return seen
		}
		select {
		case e, ok := <-n.Events():
			require.True(t, ok, "the node closed while it waited for %v", names)
			seen = append(seen, e)
		case <-ctx.Done():
			require.Failf(t, "no such peers", "have %v, want %v", have, names)
		}
	}
}

// cluster starts a coordinator c and agents a and b, which know each other.
func cluster(t *testing.T) (c, a, b *Node) {
	c, a, b = start(t, config("c", Coordinator)), start(t, config("a", Agent)), start(t, config("b", Agent))
	require.NoError(t, a.Join(t.Context(), []string{c.Addr()}))
	require.NoError(t, b.Join(t.Context(), []string{a.Addr()}))
	await(t, c, "a", "b")
	await(t, a, "b", "c")
	await(t, b, "a", "c")
	return c, a, b
}

func TestThreeNodesFindEachOtherAndTheCoordinator(t *testing.T) {
	c, a, b := cluster(t)
	for _, n := range []*Node{c, a, b} {
		p, err := n.Coordinator(patience(t))
		require.NoError(t, err)
		require.Equal(t, Peer{Name: "c", Role: Coordinator, Addr: "127.0.0.1:7000", Host: "host-of-c"}, p)
	}
}

func TestCoordinatorWaits(t *testing.T) {
	a := start(t, config("a", Agent))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := a.Coordinator(ctx)
	require.ErrorIs(t, err, context.Canceled)

	found := make(chan Peer, 1)
	go func() {
		p, _ := a.Coordinator(patience(t))
		found <- p
	}()
	c := start(t, config("c", Coordinator))
	require.NoError(t, c.Join(t.Context(), []string{a.Addr()}))
	require.Equal(t, "c", (<-found).Name)

	b := start(t, config("b", Agent))
	failed := make(chan error, 1)
	go func() {
		_, err := b.Coordinator(context.Background())
		failed <- err
	}()
	require.NoError(t, b.Close())
	require.ErrorIs(t, <-failed, errClosed)
}

func TestOneLeaves(t *testing.T) {
	c, a, b := cluster(t)
	require.NoError(t, b.Leave(0))
	await(t, c, "a")
	await(t, a, "c")
	for range b.Events() { // what was not read, and then the end
	}
	require.NoError(t, b.Leave(0), "leaving twice is leaving")
	require.ErrorIs(t, b.Join(t.Context(), []string{a.Addr()}), errClosed)
}

func TestOneDiesAndComesBackOnAnotherPort(t *testing.T) {
	c, a, b := cluster(t)
	require.NoError(t, b.Close())
	await(t, c, "a")
	await(t, a, "c")

	b = start(t, config("b", Agent))
	require.NoError(t, b.Join(t.Context(), []string{c.Addr()}))
	await(t, a, "b", "c")
}

// A restart before anybody noticed the death is no other peer, and the death that is noticed later takes nothing away.
func TestRestartBeforeTheDeathIsNoticed(t *testing.T) {
	table := newPeerTable("me@0", quiet())
	node := func(start uint64, addr string) *memberlist.Node {
		p := Peer{Name: "b", Role: Agent, Addr: addr}
		return &memberlist.Node{Name: fmt.Sprintf("b@%x", start), Meta: encodeMeta(p, start)}
	}
	table.NotifyJoin(node(1, "old:1"))
	table.NotifyJoin(node(2, "new:1"))
	require.Equal(t, []Peer{{Name: "b", Role: Agent, Addr: "new:1"}}, table.list())
	before := table.current()
	table.NotifyLeave(node(1, "old:1"))
	require.Empty(t, difference(before, table.current()))
	table.NotifyLeave(node(2, "new:1"))
	require.Equal(t, []Event{{Left, Peer{Name: "b", Role: Agent, Addr: "new:1"}}}, difference(before, table.current()))
}

func TestUpdateReachesTheOthers(t *testing.T) {
	c, a, _ := cluster(t)
	moved := Peer{Name: "c", Role: Coordinator, Addr: "127.0.0.1:7999", Host: "elsewhere"}
	require.NoError(t, c.Update(moved, time.Minute))
	ctx := patience(t)
	for {
		select {
		case e := <-a.Events():
			if e == (Event{Updated, moved}) {
				p, err := a.Coordinator(ctx)
				require.NoError(t, err)
				require.Equal(t, moved, p)
				return
			}
		case <-ctx.Done():
			require.Fail(t, "no update came")
		}
	}
}

func TestWrongKeyIsRefused(t *testing.T) {
	c, a, b := cluster(t)
	cfg := config("x", Agent)
	cfg.Key = bytes.Repeat([]byte{8}, KeySize)
	x := start(t, cfg)
	err := x.Join(t.Context(), []string{c.Addr(), a.Addr()})
	require.ErrorContains(t, err, c.Addr())
	require.ErrorContains(t, err, a.Addr())
	require.ErrorContains(t, err, "same key")
	require.Empty(t, x.Peers())
	// It goes the other way no better.
	require.Error(t, a.Join(t.Context(), []string{x.Addr()}))

	// A node that joins now is a barrier: what came before it was dealt with.
	d := start(t, config("d", Agent))
	require.NoError(t, d.Join(t.Context(), []string{c.Addr()}))
	await(t, c, "a", "b", "d")
	await(t, a, "b", "c", "d")
	await(t, b, "a", "c", "d")
}

func TestJoinSaysWhatToCheck(t *testing.T) {
	a := start(t, config("a", Agent))
	free, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	nobody := free.Addr().String()
	require.NoError(t, free.Close())

	err = a.Join(t.Context(), []string{nobody})
	require.ErrorContains(t, err, "join "+nobody+": nobody answers there")
	require.ErrorContains(t, a.Join(t.Context(), []string{"127.0.0.1"}), "missing port")
	require.ErrorContains(t, a.Join(t.Context(), nil), "no address")
	require.NoError(t, a.Join(t.Context(), []string{a.Addr()}), "the first node of a list finds itself")

	b := start(t, config("b", Agent))
	require.NoError(t, a.Join(t.Context(), []string{nobody, b.Addr()}), "one that answers is enough")

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, a.Join(ctx, []string{b.Addr()}), context.Canceled)
}

// forged is an unencrypted message of memberlist's protocol that makes a node of that name alive, with our label before it.
func forged(name string) []byte {
	str := func(s string) []byte { return append([]byte{0xda, byte(len(s) >> 8), byte(len(s))}, s...) }
	meta := encodeMeta(Peer{Name: name, Role: Agent, Addr: "6.6.6.6:1"}, 1)
	b := []byte{244, byte(len("farandole"))}
	b = append(b, "farandole"...)
	b = append(b, 4, 0x86) // alive, a map of six
	b = append(append(b, str("Incarnation")...), 1)
	b = append(append(b, str("Node")...), str(name)...)
	b = append(append(b, str("Addr")...), str("\x06\x06\x06\x06")...)
	b = binary.BigEndian.AppendUint16(append(append(b, str("Port")...), 0xcd), 666)
	b = append(append(b, str("Meta")...), str(string(meta))...)
	return append(append(b, str("Vsn")...), str("\x01\x05\x02\x00\x00\x00")...)
}

func TestGarbageMakesNoPhantom(t *testing.T) {
	c, a, b := cluster(t)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	for _, n := range []*Node{c, a, b} {
		udp, err := net.Dial("udp", n.Addr())
		require.NoError(t, err)
		for i := range 3000 {
			msg := forged(fmt.Sprintf("phantom-%d", i))
			switch i % 3 {
			case 0: // as it is
			case 1:
				msg[11+r.IntN(len(msg)-11)] = byte(r.Uint32())
			case 2:
				msg = make([]byte, 1+r.IntN(1400))
				for j := range msg {
					msg[j] = byte(r.Uint32())
				}
			}
			_, _ = udp.Write(msg) // refused once in a while: the socket's buffer is full
		}
		require.NoError(t, udp.Close())
		for range 50 {
			tcp, err := net.Dial("tcp", n.Addr())
			require.NoError(t, err)
			_, _ = tcp.Write(forged("phantom-tcp"))
			require.NoError(t, tcp.Close())
		}
	}
	d := start(t, config("d", Agent))
	for _, n := range []*Node{c, a, b} {
		require.NoError(t, d.Join(patience(t), []string{n.Addr()}))
	}
	for _, e := range slices.Concat(await(t, c, "a", "b", "d"), await(t, a, "b", "c", "d"), await(t, b, "a", "c", "d")) {
		require.NotContains(t, e.Peer.Name, "phantom")
	}
}

func TestKeyIsChangedWithoutAPause(t *testing.T) {
	c, a, b := cluster(t)
	next := bytes.Repeat([]byte{9}, KeySize)
	nodes := []*Node{c, a, b}
	for _, n := range nodes {
		require.NoError(t, n.AddKey(next))
	}
	for _, n := range nodes {
		require.NoError(t, n.UseKey(next))
	}
	for _, n := range nodes {
		require.NoError(t, n.RemoveKey(key))
	}
	cfg := config("d", Agent)
	require.ErrorContains(t, start(t, cfg).Join(t.Context(), []string{c.Addr()}), "same key")
	cfg.Key = next
	d := start(t, cfg)
	require.NoError(t, d.Join(t.Context(), []string{c.Addr()}))
	await(t, a, "b", "c", "d")
	require.Error(t, c.RemoveKey(next), "the key in use stays")
	require.Error(t, c.AddKey([]byte("short")))
}

func TestSlowReaderLosesNothingButWhatWasUndone(t *testing.T) {
	table := newPeerTable("me@0", quiet())
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); table.pump(ctx) }()
	node := func(i int, addr string) *memberlist.Node {
		p := Peer{Name: fmt.Sprintf("p%04d", i), Role: Agent, Addr: addr}
		return &memberlist.Node{Name: p.Name + "@1", Meta: encodeMeta(p, 1)}
	}
	const many = 10 * eventQueue
	for i := range many { // returns although nobody reads
		table.NotifyJoin(node(i, "x:1"))
		table.NotifyUpdate(node(i, "y:1"))
	}
	for i := range many / 2 {
		table.NotifyLeave(node(i, "y:1"))
	}
	told := map[string]Peer{}
	deadline := patience(t)
	for len(told) != many/2 || told["p0639"].Addr != "y:1" {
		select {
		case e := <-table.events:
			told[e.Peer.Name] = e.Peer
			if e.Kind == Left {
				delete(told, e.Peer.Name)
			}
		case <-deadline.Done():
			require.Failf(t, "events are missing", "%d told", len(told))
		}
	}
	cancel()
	<-done
	for e := range table.events {
		told[e.Peer.Name] = e.Peer
		if e.Kind == Left {
			delete(told, e.Peer.Name)
		}
	}
	for _, p := range told {
		require.Equal(t, "y:1", p.Addr)
	}
}

func TestStartRefuses(t *testing.T) {
	cases := map[string]struct {
		change func(*Config)
		say    string
	}{
		"no key":           {func(c *Config) { c.Key = nil }, "the key has 0 bytes, not 32"},
		"short key":        {func(c *Config) { c.Key = key[:16] }, "the key has 16 bytes"},
		"no name":          {func(c *Config) { c.Self.Name = "" }, "no name"},
		"another role":     {func(c *Config) { c.Self.Role = "boss" }, `neither "coordinator" nor "agent"`},
		"no address":       {func(c *Config) { c.Self.Addr = "" }, "gRPC address"},
		"unprintable name": {func(c *Config) { c.Self.Name = "a\n" }, "unprintable"},
		"too much":         {func(c *Config) { c.Self.Host = string(bytes.Repeat([]byte("h"), 255)); c.Self.Name = c.Self.Host }, "the limit is 512"},
		"long name":        {func(c *Config) { c.Self.Name = string(bytes.Repeat([]byte("h"), 256)) }, "the limit is 255"},
		"all interfaces":   {func(c *Config) { c.Bind = "0.0.0.0:0" }, "not loopback"},
		"another network":  {func(c *Config) { c.Bind = "192.0.2.1:0" }, "not loopback"},
		"no port":          {func(c *Config) { c.Bind = "127.0.0.1" }, "missing port"},
		"bad port":         {func(c *Config) { c.Bind = "127.0.0.1:http" }, "not a number"},
		"no host":          {func(c *Config) { c.Bind = ":7946" }, "it has no host"},
		"unknown preset":   {func(c *Config) { c.Preset = 9 }, "unknown preset"},
		"advertised port":  {func(c *Config) { c.Advertise = "127.0.0.1:4000" }, "needs one too"},
		"bad advertise":    {func(c *Config) { c.Advertise = "here" }, "advertise address"},
		"ipv6 anywhere":    {func(c *Config) { c.Bind, c.Insecure = "[::]:0", true }, "needs an Advertise"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			cfg := config("a", Agent)
			tc.change(&cfg)
			_, err := Start(t.Context(), cfg)
			require.ErrorContains(t, err, tc.say)
		})
	}
}

func TestStartOnANameAndOnAllInterfaces(t *testing.T) {
	cfg := config("a", Agent)
	cfg.Bind = "localhost:0"
	a := start(t, cfg)
	host, _, err := net.SplitHostPort(a.Addr())
	require.NoError(t, err)
	require.True(t, net.ParseIP(host).IsLoopback())

	cfg = config("b", Agent)
	cfg.Bind, cfg.Insecure, cfg.Advertise = "0.0.0.0:0", true, "127.0.0.2:0"
	host, _, err = net.SplitHostPort(start(t, cfg).Addr())
	require.NoError(t, err)
	require.Equal(t, "127.0.0.2", host)
}

func TestContextEndsTheNode(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	n, err := Start(ctx, config("a", Agent))
	require.NoError(t, err)
	cancel()
	for range n.Events() { // ends when the node does
	}
	require.NoError(t, n.Close())

	n, err = Start(ctx, config("a", Agent))
	if err == nil {
		require.NoError(t, n.Close())
	}
}
