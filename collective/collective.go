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

// ErrClosed says that the group was closed by its owner.
var ErrClosed = errors.New("group closed")

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
	// Recv fills b with the next len(b) bytes that rank from sent.
	Recv(from int, b []byte) error
	// Abort ends every pending and every later call with cause, on this rank, at once; peers see the connection end.
	// It may be called at any time from any goroutine, more than once; the first cause stays.
	Abort(cause error)
	// Close is Abort(ErrClosed) after what was sent has been handed to the network.
	Close() error
}

// Group is one generation's set of ranks.
// Every rank calls the same operations in the same order with buffers of the same length.
// Operations are called one at a time. After any error the Group is dead: drop it and wait for the next View.
type Group struct {
	tr Transport
}

// New makes a group over tr. The group owns tr.
func New(tr Transport) *Group { panic("TODO") }

// Rank is this process's position in the group.
func (g *Group) Rank() int { return g.tr.Rank() }

// World is the number of ranks.
func (g *Group) World() int { return g.tr.World() }

// Abort ends every operation, pending or later, with cause.
func (g *Group) Abort(cause error) { g.tr.Abort(cause) }

// Close ends the group.
func (g *Group) Close() error { return g.tr.Close() }

// AllReduce sums b over all ranks, in place, around a ring: the same bits on every rank, but not
// across world sizes.
func (g *Group) AllReduce(ctx context.Context, b []float32) error { panic("TODO") }

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
	panic("TODO")
}

// Broadcast copies b of rank root to all ranks.
func (g *Group) Broadcast(ctx context.Context, b []byte, root int) error { panic("TODO") }

// Barrier returns once every rank has called it.
func (g *Group) Barrier(ctx context.Context) error { panic("TODO") }

// AllGather collects each rank's b (equal lengths) into out, in rank order.
func (g *Group) AllGather(ctx context.Context, out, b []byte) error { panic("TODO") }

// Send gives b to rank to; Recv fills b from rank from.
func (g *Group) Send(ctx context.Context, to int, b []byte) error { panic("TODO") }

// Recv fills b from rank from.
func (g *Group) Recv(ctx context.Context, from int, b []byte) error { panic("TODO") }
