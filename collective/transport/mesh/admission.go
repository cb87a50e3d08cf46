package mesh

import "time"

// Admission bounds what connections may cost before they belong to a group. The zero value works; what is not positive
// means its default.
type Admission struct {
	// HandshakeTimeout is how long a new connection may take for each message of the handshake. Longer tolerates slower
	// networks; shorter frees the place of a silent client earlier. Zero means 2 s.
	HandshakeTimeout time.Duration

	// ParkTimeout is how long an early connection waits here for Connect to be called for its generation; then the
	// dialer is told to try again. Zero means 10 s.
	ParkTimeout time.Duration

	// MaxParked bounds the early connections. Zero means 1024.
	MaxParked int

	// MaxPending bounds the connections in handshake; a further one displaces the oldest, so that clients which
	// connect and say nothing cannot keep a peer out. Zero means 128.
	MaxPending int
}

// WithDefaults is a with every setting in force.
func (a Admission) WithDefaults() Admission {
	orDefault(&a.HandshakeTimeout, 2*time.Second)
	orDefault(&a.ParkTimeout, 10*time.Second)
	orDefault(&a.MaxParked, 1024)
	orDefault(&a.MaxPending, 128)
	return a
}

func orDefault[T int | time.Duration](v *T, otherwise T) {
	if *v <= 0 {
		*v = otherwise
	}
}
