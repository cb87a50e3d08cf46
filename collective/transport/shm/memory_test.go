//go:build linux

package shm

import (
	"context"
	"errors"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/farandole-ml/farandole/collective"
	"github.com/farandole-ml/farandole/collective/collectivetest"
	"github.com/farandole-ml/farandole/elastic"
)

// TestMemoryIsUsedAgainInTheNextGroup allocates once for two generations.
func TestMemoryIsUsedAgainInTheNextGroup(t *testing.T) {
	listeners, addrs := listen(t, 3)
	buffers := make([][]byte, 3)
	for gen := range 3 {
		transports := join(t, listeners, addrs, elastic.Generation(gen+1))
		groups := groupsOf(t, transports)
		each(t, groups, func(g *collective.Group) (err error) {
			r := g.Rank()
			m := transports[r].(*member)
			if gen == 0 {
				if buffers[r], err = m.Alloc(100_000); err != nil {
					return err
				}
			}
			for { // until the peers have mapped it
				if _, ok := m.locate(buffers[r]); ok {
					break
				}
			}
			for i := range buffers[r] {
				buffers[r][i] = byte(r + 1)
			}
			v := collective.Vector{Type: collective.Uint8, Data: buffers[r]}
			if err := g.AllReduce(context.Background(), v, v, collective.Sum); err != nil {
				return err
			}
			if buffers[r][99_999] != 6 || !m.task.exposed {
				return errors.New("not reduced in place")
			}
			return nil
		})
		for _, g := range groups {
			require.NoError(t, g.Close())
		}
	}
	for r, l := range listeners {
		require.EqualValues(t, 6, buffers[r][0], "memory outlives its group")
		require.NoError(t, l.arena.destroy(buffers[r]))
		require.ErrorIs(t, l.arena.destroy(buffers[r]), errNotRegistered)
	}
}

// TestALateWriterHitsNothing has a peer that writes to registered memory after the operation has failed here.
func TestALateWriterHitsNothing(t *testing.T) {
	listeners, addrs := listen(t, 2)
	transports := join(t, listeners, addrs, 1)
	m, late := transports[0].(*member), transports[1].(*member)
	b, err := m.Alloc(3 * hugeBytes)
	require.NoError(t, err)
	for i := range b {
		b[i] = 1
	}
	theirs := (*late.peers[0].buffers.Load())[0].mem
	g := collective.New(m)
	defer g.Close()
	ctx, cancel := context.WithCancel(context.Background())
	var failing sync.WaitGroup
	out := b[5000 : 5000+hugeBytes]
	failing.Go(func() {
		v := collective.Vector{Type: collective.Uint8, Data: out}
		err = g.AllReduce(ctx, v, v, collective.Sum)
	})
	require.Eventually(t, func() bool { return late.peers[0].seg.line[1].count32() == 1 }, patience, 1e6) // it is in
	cancel()
	failing.Wait()
	require.ErrorIs(t, err, context.Canceled)
	for i := range theirs {
		theirs[i] = 99
	}
	for i := range out {
		require.NotEqualValues(t, 99, out[i])
	}
	require.EqualValues(t, 1, b[4999], "what is beside it in its pages stays")
	require.EqualValues(t, 1, b[5000+hugeBytes])
	require.NoError(t, late.Close())
	clear(b)
	groups := groupsOf(t, join(t, listeners, addrs, 2))
	each(t, groups, func(g *collective.Group) error {
		v := collective.Vector{Type: collective.Uint8, Data: make([]byte, len(b))}
		if g.Rank() == 0 {
			v.Data = b
		}
		for i := range v.Data {
			v.Data[i] = 3
		}
		return g.AllReduce(context.Background(), v, v, collective.Sum)
	})
	require.EqualValues(t, 6, b[5000])
	require.NoError(t, listeners[0].arena.destroy(b))
}

func (l *line) count32() uint32 { return atomic.LoadUint32(&l.count) }

// TestExhaustedMemory: what cannot be had is said so, and the group's own Alloc goes on without it.
func TestExhaustedMemory(t *testing.T) {
	groups := groupsOf(t, connected(t, 2))
	m := groups[0]
	tr := connected(t, 1)[0].(*member)
	defer tr.Close()
	_, err := tr.Alloc(maxBufferBytes)
	require.ErrorIs(t, err, collective.ErrNoMemory)
	_, err = tr.Alloc(-1)
	require.ErrorIs(t, err, collective.ErrNoMemory)
	var limit syscall.Rlimit
	require.NoError(t, syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit))
	low := limit
	low.Cur = 3
	require.NoError(t, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &low))
	b, err := m.Alloc(1 << 20)
	require.NoError(t, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit))
	require.NoError(t, err, "ordinary memory takes its place")
	each(t, groups, func(g *collective.Group) error {
		v := collective.Vector{Type: collective.Uint8, Data: make([]byte, len(b))}
		if g == m {
			v.Data = b
		}
		return g.AllReduce(context.Background(), v, v, collective.Sum)
	})
	require.NoError(t, m.Free(b))
}

// TestNothingLeaks counts descriptors and mappings over groups that end in several ways.
func TestNothingLeaks(t *testing.T) {
	round := func() {
		transports := connected(t, 3)
		b, err := transports[0].(*member).Alloc(1 << 20)
		require.NoError(t, err)
		_, err = transports[1].(*member).Alloc(5)
		require.NoError(t, err)
		require.NoError(t, transports[0].(*member).Free(b))
		transports[2].Abort(errors.New("test"))
		for _, tr := range transports {
			require.NoError(t, tr.Close())
		}
		arena := transports[1].(*member).arena
		require.NoError(t, arena.destroy(arena.buffers[0].mem))
	}
	count := func() (fds, maps int) {
		entries, err := os.ReadDir("/proc/self/fd")
		require.NoError(t, err)
		b, err := os.ReadFile("/proc/self/maps")
		require.NoError(t, err)
		return len(entries), strings.Count(string(b), "farandole")
	}
	round()
	fds, maps := count()
	for range 5 {
		round()
	}
	nowFDs, nowMaps := count()
	require.Equal(t, fds, nowFDs)
	require.Equal(t, maps, nowMaps)
	require.Zero(t, nowMaps)
}

// TestSteadyStateAllocatesNothing runs operations of every kind on a standing group.
func TestSteadyStateAllocatesNothing(t *testing.T) {
	for _, at := range placements {
		t.Run(at.name, func(t *testing.T) {
			groups := groupsOf(t, connected(t, 2))
			collectivetest.RequireNoAllocations(t, groups, func(g *collective.Group) func() error {
				var calls []collective.Call
				for _, p := range problems {
					for _, n := range []int{100, 100_000} {
						c := p.call
						in, _, err := at.array(g, p.in(2, n))
						require.NoError(t, err)
						out, _, err := at.array(g, p.out(2, n))
						require.NoError(t, err)
						c.In, c.Out = collective.Of(floatsOf(in)), collective.Of(floatsOf(out))
						calls = append(calls, c, collective.Call{Kind: collective.OpBarrier})
					}
				}
				for _, n := range []int{100, 100_000} {
					c := collective.Call{Kind: collective.OpReduceTree, Ranges: elastic.Assign(3, 2), Shards: 3}
					for _, of := range elastic.Partials(c.Ranges[g.Rank()], c.Shards) {
						b, _, err := at.array(g, n)
						require.NoError(t, err)
						c.Partials = append(c.Partials, collective.Partial{Node: of, Data: floatsOf(b)})
					}
					c.Out = collective.Of(c.Partials[0].Data)
					calls = append(calls, c)
				}
				ctx, message := context.Background(), make([]byte, 1<<20)
				return func() error {
					for i := range calls {
						if err := g.Do(ctx, &calls[i]); err != nil {
							return err
						}
					}
					if g.Rank() == 0 {
						return errors.Join(g.Send(ctx, 1, message), g.Recv(ctx, 1, message))
					}
					return errors.Join(g.Recv(ctx, 0, message), g.Send(ctx, 0, message))
				}
			})
		})
	}
}

// TestFirstOperationsAllocateNothing: no operation needs another kind before it to have made its lists.
func TestFirstOperationsAllocateNothing(t *testing.T) {
	for _, p := range problems {
		t.Run(p.call.Kind.String(), func(t *testing.T) {
			groups := groupsOf(t, connected(t, 2))
			collectivetest.RequireNoAllocations(t, groups, func(g *collective.Group) func() error {
				const n = 100_000
				c := p.call
				c.In, c.Out = collective.Of(make([]float32, p.in(2, n))), collective.Of(make([]float32, p.out(2, n)))
				return func() error { return g.Do(context.Background(), &c) }
			})
		})
	}
}
