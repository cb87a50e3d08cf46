package collective

import "errors"

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

// Eager is implemented by a Transport that can take a message without waiting, if the network has room for it.
type Eager interface {
	// TrySend is Send when that needs no waiting. False means that b has not been taken, or not all of it: the
	// next call for this peer must be Send with the same bytes, which finishes, or, with a Duplex, TrySend again.
	TrySend(to int, b []byte) (bool, error)
}

// Duplex is implemented by an Eager Transport whose Recv can send meanwhile, on the goroutine that calls it. It may
// give false for Duplex to say that this does not pay here.
type Duplex interface {
	Eager
	Duplex() bool
	// Meanwhile makes every Recv call push before it waits, and again when, while it waits, more can be sent of what
	// TrySend began; push calls TrySend, also again for a message of which it gave false. Until Meanwhile(nil), Recv is
	// called by one goroutine alone and Send by none.
	Meanwhile(push func())
	// Room waits until more can be sent of some message that TrySend began, if there is one.
	Room() error
}

// Marker is implemented by a Transport whose messages carry the operation that they belong to, so that ranks that
// are out of step get an error that says so. Mark is called while no Send and no Recv is in flight.
type Marker interface {
	Mark(op Op)
}

// Topology is implemented by a Transport that knows where its ranks are. Ranks with equal names share a host. All
// ranks must give the same answers, which do not change.
type Topology interface {
	Host(rank int) string
}

// Sharer is implemented by a Transport whose ranks can all touch the same memory.
type Sharer interface {
	Transport
	Shared() SharedMemory
}

// HostSharer is implemented by a Transport some of whose ranks share a host, and can all touch the same memory there.
type HostSharer interface {
	Topology
	// SharedOnHost carries out operations of the ranks on this host alone, which it counts in their order here. It is
	// Transport.Abort that ends it, and its errors have the ranks of the Transport.
	SharedOnHost() SharedMemory
}

// SharedMemory carries operations out in memory that all ranks of the group can touch.
type SharedMemory interface {
	// Do carries c out, which is valid but for its Partials and Ranges, has its Wire, and is identified by op. Whether it is handled must depend on op, and on what is equal on all
	// ranks, alone; when it is not, the group runs it by messages. Transport.Abort ends it. c and its buffers are the
	// caller's again after it has returned.
	Do(op Op, c *Call) (handled bool, err error)
}

// ErrNoMemory says that the registered memory that a transport may use is exhausted.
var ErrNoMemory = errors.New("no registered memory left")

// Allocator is implemented by a Transport with registered memory, in which operations need no copies.
// It is safe for concurrent use.
type Allocator interface {
	// Alloc gives bytes of registered memory, zeroed and page-aligned, or ErrNoMemory.
	Alloc(bytes int) ([]byte, error)
	// Free takes back what Alloc gave, whole. Nothing may use it any more.
	Free(b []byte) error
}
