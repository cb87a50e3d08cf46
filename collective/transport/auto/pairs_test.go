package auto

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/farandole-ml/farandole/collective"
	"github.com/farandole-ml/farandole/collective/collectivetest"
	"github.com/farandole-ml/farandole/collective/transport"
	"github.com/farandole-ml/farandole/elastic"
)

// at forms a group whose ranks are on the named hosts. Those of host without do without its memory.
func at(t *testing.T, without string, hosts ...string) []collective.Transport {
	listeners, addrs := make([]*Listener, len(hosts)), make([]string, len(hosts))
	for r, h := range hosts {
		l, err := Listen("127.0.0.1:0", Config{Host: h, Logger: slog.New(slog.DiscardHandler)})
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, l.Close()) })
		way := l.addr
		if h == without {
			way.shared = ""
		}
		listeners[r], addrs[r] = l, way.String()
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	transports, errs := make([]collective.Transport, len(hosts)), make([]error, len(hosts))
	each(len(hosts), func(r int) {
		transports[r], errs[r] = listeners[r].Connect(ctx, transport.ID{Job: "test", Generation: 1, Rank: r}, addrs)
	})
	for _, err := range errs {
		require.NoError(t, err)
	}
	return transports
}

func each(n int, f func(r int)) {
	var wg sync.WaitGroup
	for r := range n {
		wg.Go(func() { f(r) })
	}
	wg.Wait()
}

func TestRanksOfOneHostShareItsMemory(t *testing.T) {
	transports := at(t, "b", "a", "b", "a", "c", "b")
	for r, want := range []bool{true, false, true, false, false} {
		s, ok := transports[r].(collective.HostSharer)
		require.Equal(t, want, ok && s.SharedOnHost() != nil, "rank %d", r)
	}
	each(len(transports), func(r int) { _ = transports[r].Close() })
}

// Hosts with and without memory of their own take part in one operation: what goes between them is the same.
func TestAHostWithoutMemory(t *testing.T) {
	const shards = 8
	hosts := []string{"a", "a", "b", "b"}
	transports := at(t, "b", hosts...)
	ranges := elastic.Assign(shards, len(hosts))
	each(len(hosts), func(r int) {
		g := collective.NewTuned(transports[r], collective.Tuning{ChunkBytes: 4 << 10})
		defer g.Close()
		for _, n := range []int{1, 3, 1000, 1024, 70001} {
			sum, tree := make([]float32, n), make([]float32, n)
			for i := range sum {
				sum[i] = float32(i%13 + r)
			}
			v := collective.Of(sum)
			assertOn(t, r, g.AllReduce(t.Context(), v, v, collective.Avg))
			var partials []collective.Partial
			for _, node := range elastic.Partials(ranges[r], shards) {
				data := make([]float32, n)
				for i := range data {
					data[i] = float32((i%7 + 1) * node.Len())
				}
				partials = append(partials, collective.Partial{Node: node, Data: data})
			}
			assertOn(t, r, g.ReduceTree(t.Context(), tree, partials, ranges, shards))
			for i := range sum {
				if want := float32(i%13) + 1.5; sum[i] != want {
					t.Errorf("rank %d: element %d of %d is %v, not %v", r, i, n, sum[i], want)
					break
				}
				if want := float32((i%7 + 1) * shards); tree[i] != want {
					t.Errorf("rank %d: element %d of %d of the tree is %v, not %v", r, i, n, tree[i], want)
					break
				}
			}
		}
		assertOn(t, r, g.Barrier(t.Context()))
	})
}

func assertOn(t *testing.T, r int, err error) {
	if err != nil {
		t.Errorf("rank %d: %v", r, err)
	}
}

// Whoever ends the group, all others name it by its rank in the group, though memory and goodbyes count by host.
func TestBlameHasTheRanksOfTheGroup(t *testing.T) {
	hosts := []string{"a", "b", "a", "b", "b"}
	for bad := range hosts {
		t.Run(fmt.Sprint(bad), func(t *testing.T) {
			transports := at(t, "", hosts...)
			cause := errors.New("struck")
			each(len(hosts), func(r int) {
				g := collective.New(transports[r])
				defer g.Close()
				if r == bad {
					assertOn(t, r, g.Barrier(t.Context()))
					g.Abort(cause)
					return
				}
				err := g.Barrier(t.Context())
				b := collective.Of(make([]float32, 50000))
				for err == nil {
					err = g.AllReduce(t.Context(), b, b, collective.Sum)
				}
				var pe *collective.PeerError
				if !errors.As(err, &pe) || pe.Rank != bad {
					t.Errorf("rank %d blames another than %d: %v", r, bad, err)
				}
			})
		})
	}
}

// What ends the connections ends a rank that waits in memory, and the other way around.
func TestEitherSideEndsBoth(t *testing.T) {
	cause := errors.New("struck")
	sides := map[string]func(*onHosts) collective.Transport{
		"far":  func(t *onHosts) collective.Transport { return t.Transport },
		"near": func(t *onHosts) collective.Transport { return t.near },
	}
	for name, side := range sides {
		t.Run(name, func(t *testing.T) {
			transports := at(t, "", "a", "a", "b")
			tr := transports[0].(*onHosts)
			ended := make(chan error)
			from := map[string]int{"far": 1, "near": 2}[name] // it waits on the other side
			go func() { ended <- tr.Recv(from, make([]byte, 1)) }()
			side(tr).Abort(cause)
			if name == "near" {
				require.ErrorIs(t, tr.Send(1, nil), cause)
			}
			require.ErrorIs(t, <-ended, cause)
			require.ErrorIs(t, tr.Send(1, nil), cause)
			require.ErrorIs(t, tr.Send(2, nil), cause)
			each(len(transports), func(r int) { _ = transports[r].Close() })
		})
	}
}

func TestHierarchicalAllocatesNothing(t *testing.T) {
	var groups []*collective.Group
	for _, tr := range at(t, "", "a", "a", "b", "b") {
		g := collective.New(tr)
		defer g.Close()
		groups = append(groups, g)
	}
	collectivetest.RequireNoAllocations(t, groups, func(g *collective.Group) func() error {
		b := collective.Of(make([]float32, 400000)) // messages so long that the first rounds start all senders
		out := make([]float32, 1001)
		r := g.Rank()
		partials := []collective.Partial{{Node: elastic.Range{First: r, End: r + 1}, Data: make([]float32, 1001)}}
		ranges := elastic.Assign(4, 4)
		return func() error {
			if err := g.AllReduce(t.Context(), b, b, collective.Sum); err != nil {
				return err
			}
			return g.ReduceTree(t.Context(), out, partials, ranges, 4)
		}
	})
}
