// Package collective has the operations that the ranks of one generation do together: all-reduce, reduce-scatter,
// all-gather, broadcast, reduce, all-to-all, barrier, point to point; and the tree-ordered reduction whose bits do not depend
// on the world size.
package collective

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/farandole-ml/farandole/elastic"
)

// ErrGenerationChanged says that the membership moved on during an operation.
// Buffers hold partial results: drop them and redo the step.
var ErrGenerationChanged = errors.New("generation changed")

// ErrPeerMoved says that a peer left the group because it was told of another generation before this rank was.
// Nobody failed: the news will come here too.
var ErrPeerMoved = errors.New("the peer was told of another generation")

// ErrClosed says that the group was closed by its owner.
var ErrClosed = errors.New("group closed")

// ErrMisuse says that an operation was called in a way that can never work: arguments that do not fit together,
// or while another operation was running. The group is dead afterwards, as after any error.
var ErrMisuse = errors.New("collective misused")

// PeerError names the peer that an operation failed with.
type PeerError struct {
	Rank int    // the peer's rank
	Op   string // what was being done: "all-reduce", "dial", …
	Err  error
}

func (e *PeerError) Error() string {
	return fmt.Sprintf("%s with rank %d: %v", e.Op, e.Rank, e.Err)
}

func (e *PeerError) Unwrap() error { return e.Err }

// Group is one generation's set of ranks, or a part of them (Sub).
// Every rank calls the same operations in the same order with the same lengths, types, reductions and roots; ranks that
// do not get an OutOfStepError. Any length will do, zero too, and any number of ranks, one too.
//
// Operations are called one at a time, but for Send and Recv, which may run beside one another as long as there
// is one of each per peer; a call waits for the operations that were started (Start) before it. After any error the Group is dead: every
// later call returns that error at once; drop the Group and wait for the next View.
//
// A context that ends during an operation aborts the group, and the operation returns the context's cause.
// When an operation returns, nothing refers to its buffers any more, whether or not it failed.
type Group struct {
	*endpoint
	tuning Tuning
	rank   int
	ranks  []int  // the transport's, by the group's; nil: they are the same
	id     uint32 // of a sub-group; zero for the group that New made
	seq    uint32 // of the last collective; guarded by the state's mu
	hosts  *hosts

	// of the running operation, or remembered from one to the next
	call  Call // a wrapper's
	plans map[planKey]*plan
	tree  treePlan

	aligned int64 // endpoint.formed when meet was made
	meet    plan  // see align
}

// endpoint is what a group and its sub-groups share on one rank.
type endpoint struct {
	tr        Transport
	eager     Eager // tr, if it is one; so the next ones
	duplex    Duplex
	pushAll   func() // push of all posted senders; made once
	shared    SharedMemory
	onHost    onHost
	allocator Allocator
	state     state
	out       []*sender // by the transport's rank; nil for this one
	posted    []*sender // the running operation's
	memory    memory    // the running operation's
	queue     queue
	subs      map[uint32]int // guarded by the state's mu; so members
	members   [][]int        // the ranks of the sub-groups that this rank is in
	formed    atomic.Int64   // len(members)

	registered sync.Map    // *byte: what the allocator gave
	exhausted  atomic.Bool // the allocator had no more, once
}

// New makes a group over tr. The group owns tr. The owner must end it with Close or Abort.
func New(tr Transport) *Group { return NewTuned(tr, Tuning{}) }

// NewTuned is New with sizes and choices other than the defaults. They must be equal on all ranks.
func NewTuned(tr Transport, t Tuning) *Group {
	e := &endpoint{tr: tr, state: state{tr: tr, over: make(chan struct{})}, out: make([]*sender, tr.World())}
	e.eager, _ = tr.(Eager)
	if d, ok := tr.(Duplex); ok && d.Duplex() {
		e.duplex, e.pushAll = d, e.push
	}
	e.allocator, _ = tr.(Allocator)
	e.state.marker, _ = tr.(Marker)
	if s, ok := tr.(Sharer); ok {
		e.shared = s.Shared()
	}
	if s, ok := tr.(HostSharer); ok {
		e.onHost.memory = s.SharedOnHost()
	}
	g := &Group{endpoint: e, tuning: t.withDefaults(), rank: tr.Rank(), plans: make(map[planKey]*plan)}
	g.hosts = newHosts(tr, tr.World(), g.peer)
	for r := range e.out {
		if r != tr.Rank() {
			e.out[r] = newSender(e, r)
		}
	}
	return g
}

// Rank is this process's position in the group.
func (g *Group) Rank() int { return g.rank }

// World is the number of ranks.
func (g *Group) World() int {
	if g.ranks != nil {
		return len(g.ranks)
	}
	return g.tr.World()
}

// Abort ends every operation, pending or later, of the group and its sub-groups, with cause (nil means ErrClosed).
// It does not wait for them.
func (g *Group) Abort(cause error) {
	if cause == nil {
		cause = ErrClosed
	}
	_ = g.state.fail(cause)
}

// Close ends the group and its sub-groups. Operations that are still running end with ErrClosed. Closing a sub-group does nothing: it
// lives as long as the group it is of.
func (g *Group) Close() error {
	if g.ranks != nil {
		return nil
	}
	_ = g.state.set(ErrClosed)
	err := g.tr.Close()
	g.state.senders.Wait()
	return err
}

// Do runs one operation and returns when this rank's part is done. In steady state it allocates nothing.
func (g *Group) Do(ctx context.Context, c *Call) error {
	if err := g.await(ctx); err != nil {
		return err
	}
	return g.do(ctx, c)
}

// AllReduce makes out the reduction of all ranks' in: the same bits on every rank, but not across world sizes
// or algorithms.
func (g *Group) AllReduce(ctx context.Context, out, in Vector, op RedOp) error {
	return g.byValue(ctx, Call{Kind: OpAllReduce, Out: out, In: in, Op: op})
}

// ReduceScatter makes out the reduction of part number rank of all ranks' in, which is world times out's length.
func (g *Group) ReduceScatter(ctx context.Context, out, in Vector, op RedOp) error {
	return g.byValue(ctx, Call{Kind: OpReduceScatter, Out: out, In: in, Op: op})
}

// AllGather collects each rank's in into out, which is world times in's length, in rank order.
func (g *Group) AllGather(ctx context.Context, out, in Vector) error {
	return g.byValue(ctx, Call{Kind: OpAllGather, Out: out, In: in})
}

// Broadcast copies b of rank root to all ranks.
func (g *Group) Broadcast(ctx context.Context, b Vector, root int) error {
	return g.byValue(ctx, Call{Kind: OpBroadcast, Out: b, Root: root})
}

// Reduce makes out on rank root the reduction of all ranks' in. Elsewhere out may be empty, and is not touched.
func (g *Group) Reduce(ctx context.Context, out, in Vector, op RedOp, root int) error {
	return g.byValue(ctx, Call{Kind: OpReduce, Out: out, In: in, Op: op, Root: root})
}

// AllToAll sends part r of in to rank r, and makes part r of out what rank r sent here. Parts are equally long.
func (g *Group) AllToAll(ctx context.Context, out, in Vector) error {
	return g.byValue(ctx, Call{Kind: OpAllToAll, Out: out, In: in})
}

// Barrier returns once every rank has called it.
func (g *Group) Barrier(ctx context.Context) error {
	return g.byValue(ctx, Call{Kind: OpBarrier})
}

// ReduceTree sums the partials of all ranks in the order of the reduction tree over shards shards and leaves
// the sum in out on every rank. The partials of rank r are the nodes of elastic.Partials(ranges[r], shards);
// ranges is equal on all ranks. All Data and out have one length; out may be one of the Data.
// The bits depend on the shards' values alone: not on the world size, the ranges, the algorithm or the transport.
func (g *Group) ReduceTree(ctx context.Context, out []float32, partials []Partial, ranges []elastic.Range, shards int) error {
	return g.byValue(ctx, Call{Kind: OpReduceTree, Out: Of(out), Partials: partials, Ranges: ranges, Shards: shards})
}

// Send gives b to rank to, which must Recv exactly as many bytes. It may wait for that Recv: two ranks that
// both Send first may wait for one another.
func (g *Group) Send(ctx context.Context, to int, b []byte) error {
	return g.pointToPoint(ctx, to, b, true)
}

// Recv fills b from rank from.
func (g *Group) Recv(ctx context.Context, from int, b []byte) error {
	return g.pointToPoint(ctx, from, b, false)
}
