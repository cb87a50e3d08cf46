package kernels

import "context"

// Exchanger is a Device that sends what is in its buffers to devices of other processes, on this host or another, and not by way of the
// host where there is a shorter one. As all of a Device it is used by one goroutine at a time, and so is an Exchange of it.
type Exchanger interface {
	Device
	// Place names the device as no other one is named, in at most MaxHandle bytes: an exchange has each place once. Its error says what is
	// missing for an exchange.
	Place() ([]byte, error)
	// NewExchange gives the name of an exchange to be, in at most MaxHandle bytes. One rank asks for it, and all join it.
	NewExchange() (id []byte, err error)
	// JoinExchange makes this device rank of the world ranks of an exchange. It returns when all have come, or with an error when one cannot or when
	// ctx ends, whose cause it is then. The device is as good as before.
	JoinExchange(ctx context.Context, id []byte, rank, world int) (Exchange, error)
}

// Exchange is what some devices have in common that send to each other. After an error it is dead, on this rank at once and on the others soon, and
// all that it had to do has ended; the device is as good as before, but what was to be received is not known. Errors of the device itself are
// a *DeviceError, as ever.
type Exchange interface {
	// Swap enqueues messages, all of which go at once: after what was enqueued before, and before what is enqueued next. What a rank sends to
	// another is received there in its order, in buffers as long. Every rank of which a message is wanted has to call Swap, or else
	// it waits until ctx ends, here or in Sync. From Swap on nothing but Sync or Close of the exchange may wait for the device.
	Swap(ctx context.Context, sends, recvs []Message) error
	// Sync waits until the device has done all that was enqueued. Others may have yet to receive what this one sent.
	Sync(ctx context.Context) error
	// Close ends the exchange for all ranks, and waits for none of them. It may be called more than once, and after the device's Close.
	Close() error
}

// Message is what goes to, or comes from, another rank of an exchange, or this one.
type Message struct {
	Peer   int
	Buffer Buffer
}
