package collective_test

import (
	"context"
	"errors"
	"math"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/farandole-ml/farandole/collective"
	"github.com/farandole-ml/farandole/collective/collectivetest"
	"github.com/farandole-ml/farandole/collective/transport/inproc"
	"github.com/farandole-ml/farandole/collective/transport/tcp"
	"github.com/farandole-ml/farandole/elastic"
)

// memory is a transport whose shared memory does nothing, at once.
type memory struct{ collective.Transport }

func (memory) Mark(collective.Op)                                    {}
func (memory) Shared() collective.SharedMemory                       { return memory{} }
func (memory) Do(op collective.Op, c *collective.Call) (bool, error) { return true, nil }

func nothing(t testing.TB) *collective.Group {
	g := collective.New(memory{inproc.New(2)[0]})
	t.Cleanup(func() { g.Close() })
	return g
}

// BenchmarkDo is what a group costs beside the transport.
func BenchmarkDo(b *testing.B) {
	v := collective.Of(make([]float32, 256))
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	deep := context.WithValue(context.WithValue(ctx, "a", 1), "b", 2) //nolint:staticcheck // any keys will do
	for name, ctx := range map[string]context.Context{"background": context.Background(), "cancellable": ctx, "values": deep} {
		b.Run(name, func(b *testing.B) {
			g := nothing(b)
			c := &collective.Call{Kind: collective.OpAllReduce, Out: v, In: v}
			b.ReportAllocs()
			for b.Loop() {
				if err := g.Do(ctx, c); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// TestSteadyStateAllocatesNothing runs every operation, under one context, on a standing group of two.
func TestSteadyStateAllocatesNothing(t *testing.T) {
	for name, tuning := range map[string]collective.Tuning{
		"default": {}, "ring": {Algorithm: collective.Ring, ChunkBytes: 1 << 10, DirectBytes: -1},
		"halving": {Algorithm: collective.HalvingDoubling, DirectBytes: -1}, "tree": {Algorithm: collective.BinaryTree},
		"bf16": {Wire: collective.WireBF16, DirectBytes: -1},
	} {
		t.Run(name, func(t *testing.T) { steadyState(t, inproc.New(2), tuning) })
	}
	t.Run("tcp", func(t *testing.T) { steadyState(t, mesh(t, 2, tcp.Config{}), collective.Tuning{}) })
	t.Run("shared memory", func(t *testing.T) {
		g := nothing(t)
		v := collective.Of(make([]float32, 256))
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		require.Zero(t, testing.AllocsPerRun(100, func() {
			_ = g.AllReduce(ctx, v, v, collective.Sum)
			_ = g.Barrier(ctx)
		}))
	})
}

func steadyState(t *testing.T, transports []collective.Transport, tuning collective.Tuning) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ranges := elastic.Assign(3, 2)
	var groups []*collective.Group
	for _, tr := range transports {
		g := collective.NewTuned(tr, tuning)
		defer g.Close()
		groups = append(groups, g)
	}
	collectivetest.RequireNoAllocations(t, groups, func(g *collective.Group) func() error {
		var calls []collective.Call
		for _, n := range []int{100, 50000} {
			long, short := collective.Of(make([]float32, 2*n)), collective.Of(make([]float32, n))
			for k := collective.OpAllReduce; len(k.Algorithms()) > 0; k++ {
				c := collective.Call{Kind: k, Out: short, In: short, Op: collective.Avg}
				switch k {
				case collective.OpReduceScatter:
					c.In = long
				case collective.OpAllGather:
					c.Out = long
				case collective.OpReduceTree:
					c.Ranges, c.Shards = ranges, 3
					for _, node := range elastic.Partials(ranges[g.Rank()], 3) {
						c.Partials = append(c.Partials, collective.Partial{Node: node, Data: make([]float32, n)})
					}
				}
				calls = append(calls, c)
			}
		}
		return func() error {
			for i := range calls {
				if err := g.Do(ctx, &calls[i]); err != nil {
					return err
				}
			}
			return exchange(ctx, g, calls[0].Out.Data)
		}
	})
}

func exchange(ctx context.Context, g *collective.Group, b []byte) error {
	if g.Rank() == 0 {
		if err := g.Send(ctx, 1, b); err != nil {
			return err
		}
		return g.Recv(ctx, 1, b)
	}
	if err := g.Recv(ctx, 0, b); err != nil {
		return err
	}
	return g.Send(ctx, 0, b)
}

// TestContexts checks what a group keeps of the contexts that it has seen.
func TestContexts(t *testing.T) {
	cause := errors.New("cause")
	barrier := func(ctx context.Context, groups []*collective.Group) (errs [2]error) {
		var wg sync.WaitGroup
		for r, g := range groups {
			wg.Go(func() { errs[r] = g.Barrier(ctx) })
		}
		wg.Wait()
		return errs
	}
	form := func() []*collective.Group {
		tr := inproc.New(2)
		return []*collective.Group{collective.New(tr[0]), collective.New(tr[1])}
	}
	none := [2]error{}
	cases := map[string]func(t *testing.T, groups []*collective.Group){
		"the same one, ended between operations": func(t *testing.T, groups []*collective.Group) {
			ctx, cancel := context.WithCancelCause(t.Context())
			require.Equal(t, none, barrier(ctx, groups))
			require.Equal(t, none, barrier(ctx, groups))
			cancel(cause)
			synctest.Wait()
			require.Equal(t, none, barrier(t.Context(), groups), "an ended context that no operation runs under is of no account")
			require.ErrorIs(t, groups[0].Barrier(ctx), cause)
		},
		"another one, ended during an operation": func(t *testing.T, groups []*collective.Group) {
			old, cancelOld := context.WithCancelCause(t.Context())
			ctx, cancel := context.WithCancelCause(t.Context())
			require.Equal(t, none, barrier(old, groups))
			ended := make(chan error)
			go func() { ended <- groups[0].Barrier(ctx) }()
			synctest.Wait()
			cancelOld(errors.New("of no account"))
			synctest.Wait()
			cancel(cause)
			require.ErrorIs(t, <-ended, cause)
		},
		"the same one, ended during a later operation": func(t *testing.T, groups []*collective.Group) {
			ctx, cancel := context.WithCancelCause(t.Context())
			for range 3 {
				require.Equal(t, none, barrier(ctx, groups))
			}
			ended := make(chan error)
			go func() { ended <- groups[0].Barrier(ctx) }()
			synctest.Wait()
			cancel(cause)
			require.ErrorIs(t, <-ended, cause)
		},
		"one of two point-to-point calls": func(t *testing.T, groups []*collective.Group) {
			a, cancelA := context.WithCancelCause(t.Context())
			b, cancelB := context.WithCancelCause(t.Context())
			defer cancelB(nil)
			errs := make(chan error, 2)
			go func() { errs <- groups[0].Recv(b, 1, make([]byte, 1)) }()
			synctest.Wait()
			go func() { errs <- groups[0].Send(a, 1, make([]byte, 1)) }()
			synctest.Wait()
			cancelA(cause)
			require.ErrorIs(t, <-errs, cause)
			require.ErrorIs(t, <-errs, cause)
		},
	}
	for name, run := range cases {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				groups := form()
				run(t, groups)
				for _, g := range groups {
					g.Close()
				}
			})
		})
	}
}

func TestOf(t *testing.T) {
	f := []float32{1, math.Pi}
	require.Equal(t, collective.Vector{Type: collective.Float32, Data: float32Bytes(f)}, collective.Of(f))
	require.Equal(t, collective.Int64, collective.Of([]int64{1}).Type)
	require.Equal(t, collective.Float64, collective.Of([]float64{1}).Type)
	require.Equal(t, collective.Int32, collective.Of([]int32{1}).Type)
	require.Equal(t, 3, collective.Of([]uint8{1, 2, 3}).Len())
	require.Equal(t, 2, collective.BF16([]uint16{1, 2}).Len())
	require.Equal(t, []byte{1, 0, 2, 0}, collective.F16([]uint16{1, 2}).Data)
	require.Zero(t, collective.Of([]float64(nil)).Len())
}
