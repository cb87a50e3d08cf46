// Package collective has the operations that the ranks of one generation do together: all-reduce,
// broadcast, barrier, point to point; and the tree-ordered reduction whose bits do not depend on the
// world size.
package collective

import (
	"context"
	"errors"
	"fmt"

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

// Transport moves bytes between the ranks of one generation. Between two ranks messages arrive whole, once and in order.
// Different peers are independent; at most one Send and one Recv per peer are in flight at a time.
type Transport interface {
	Rank() int
	World() int
	// Send returns once b may be reused; delivery may come later.
	Send(to int, b []byte) error
	// Recv fills b with the next message that rank from sent, which must have exactly len(b) bytes.
	Recv(from int, b []byte) error
	// Abort ends every pending and every later call with cause, on this rank, at once; peers see the connection end.
	// It may be called at any time from any goroutine, more than once; the first cause stays.
	Abort(cause error)
	// Close is Abort(ErrClosed) after what was sent has been handed to the network.
	Close() error
}

// Group is one generation's set of ranks.
// Every rank calls the same operations in the same order with buffers of the same length.
// Operations are called one at a time, but for Send and Recv, which may run beside one another as long as there
// is one of each per peer. After any error the Group is dead: every later call returns that error at once; drop
// the Group and wait for the next View.
//
// A context that ends during an operation aborts the group, and the operation returns the context's cause.
// When an operation returns, nothing refers to its buffers any more, whether or not it failed.
type Group struct {
	tr     Transport
	eager  Eager // tr, if it is one
	tuning Tuning
	state  state
	out    []*sender // by rank; nil for this one
	posted []*sender // the running operation's
	ring   ring
	tree   tree
	relay  relay
	direct direct
	tokens tokens
}

// New makes a group over tr. The group owns tr. The owner must end it with Close or Abort.
func New(tr Transport) *Group { return NewTuned(tr, Tuning{}) }

// NewTuned is New with sizes other than the defaults. They must be equal on all ranks.
func NewTuned(tr Transport, t Tuning) *Group {
	g := &Group{tr: tr, tuning: t.withDefaults()}
	g.state.over = make(chan struct{})
	g.out = make([]*sender, tr.World())
	for r := range g.out {
		if r != tr.Rank() {
			g.out[r] = newSender(g, r)
		}
	}
	g.eager, _ = tr.(Eager)
	g.state.marker, _ = tr.(Marker)
	return g
}

// Rank is this process's position in the group.
func (g *Group) Rank() int { return g.tr.Rank() }

// World is the number of ranks.
func (g *Group) World() int { return g.tr.World() }

// Abort ends every operation, pending or later, with cause (nil means ErrClosed). It does not wait for them.
func (g *Group) Abort(cause error) {
	if cause == nil {
		cause = ErrClosed
	}
	_ = g.fail(cause)
}

// Close ends the group. Operations that are still running end with ErrClosed.
func (g *Group) Close() error {
	_ = g.state.set(ErrClosed)
	err := g.tr.Close()
	g.state.senders.Wait()
	return err
}

// AllReduce sums b over all ranks, in place, around a ring: the same bits on every rank, but not
// across world sizes.
func (g *Group) AllReduce(ctx context.Context, b []float32) error {
	op := Op{Kind: OpAllReduce, Bytes: uint64(4 * len(b))}
	return g.collective(ctx, op, func() error { return g.allReduce(b) })
}

// Partial is a tree node's value, held by one rank.
type Partial struct {
	Node elastic.Range
	Data []float32
}

// ReduceTree sums the partials of all ranks in the order of the reduction tree over shards shards and leaves
// the sum in out on every rank. The partials of rank r are the nodes of elastic.Partials(ranges[r], shards);
// ranges is equal on all ranks. All Data and out have one length; out may be one of the Data.
// The bits depend on the shards' values alone: not on the world size, the ranges or the transport.
func (g *Group) ReduceTree(ctx context.Context, out []float32, partials []Partial, ranges []elastic.Range, shards int) error {
	op := Op{Kind: OpReduceTree, Bytes: uint64(4 * len(out)), Shape: shapeOf(ranges, shards)}
	return g.collective(ctx, op, func() error { return g.reduceTree(out, partials, ranges, shards) })
}

// Broadcast copies b of rank root to all ranks.
func (g *Group) Broadcast(ctx context.Context, b []byte, root int) error {
	op := Op{Kind: OpBroadcast, Bytes: uint64(len(b)), Shape: uint32(root)}
	return g.collective(ctx, op, func() error { return g.broadcast(b, root) })
}

// Barrier returns once every rank has called it.
func (g *Group) Barrier(ctx context.Context) error {
	return g.collective(ctx, Op{Kind: OpBarrier}, g.barrier)
}

// AllGather collects each rank's b (equal lengths) into out, in rank order. b may be its own place in out.
func (g *Group) AllGather(ctx context.Context, out, b []byte) error {
	op := Op{Kind: OpAllGather, Bytes: uint64(len(b))}
	return g.collective(ctx, op, func() error { return g.allGather(out, b) })
}

// Send gives b to rank to, which must Recv exactly as many bytes. It may wait for that Recv: two ranks that
// both Send first may wait for one another.
func (g *Group) Send(ctx context.Context, to int, b []byte) error {
	return g.pointToPoint(ctx, to, func() error { return g.tr.Send(to, b) })
}

// Recv fills b from rank from.
func (g *Group) Recv(ctx context.Context, from int, b []byte) error {
	return g.pointToPoint(ctx, from, func() error { return g.tr.Recv(from, b) })
}
