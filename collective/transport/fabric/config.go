// Package fabric connects the ranks of one generation by libfabric: reliable datagrams with tagged messages, over
// whatever network libfabric has a provider for. It is built with the tag fabric, by cgo, on Linux; without them Listen
// returns ErrNotBuilt. See docs/fabric.md for what is tested.
//
// A process has one Listener for its life. Connect forms the mesh of one generation over TCP, by package mesh, and then
// opens an endpoint and exchanges the endpoints' addresses. The TCP connections stay: a peer's goodbye comes there, and its
// death is seen there, because providers often do not tell. Nothing here encrypts or authenticates: the port must be
// reachable by the job's hosts only.
package fabric

import (
	"errors"
	"log/slog"
	"time"

	"github.com/farandole-ml/farandole/collective/transport/mesh"
)

// ErrNotBuilt says that this program has no libfabric.
var ErrNotBuilt = errors.New("fabric: this program was built without libfabric: install libfabric-dev (Debian's name) and build with -tags fabric and cgo on Linux, or choose another transport")

// Config has a Listener's settings. The zero value works.
type Config struct {
	// Job is the only job whose connections are accepted. Empty means that of the first Connect.
	Job string

	// Provider is libfabric's name of the provider to use: "tcp", "shm", "verbs", "efa", …. It must be the same on all ranks.
	// Empty means the first that libfabric offers and that reaches other hosts without emulation.
	Provider string

	// Stage makes all data go through memory of the transport's own, as it does without being asked where the provider
	// wants memory to be registered. It costs a copy on each side.
	Stage bool

	// Liveness is how long a peer's host may leave probes of the TCP connection unanswered, at most three times in
	// a row, before the peer is given up. Zero means 1 s, the least; negative means never.
	Liveness time.Duration

	mesh.Admission

	// Checksum protects every message by a CRC-32C, verified on receipt. It must be equal on all ranks.
	Checksum bool

	// Logger gets refused and displaced connections at level Debug. Nil means slog.Default().
	Logger *slog.Logger
}
