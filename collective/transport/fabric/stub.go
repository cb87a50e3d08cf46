//go:build !fabric || !cgo || !linux

package fabric

import (
	"context"

	"github.com/farandole-ml/farandole/collective"
	"github.com/farandole-ml/farandole/collective/transport"
	"github.com/farandole-ml/farandole/elastic"
)

// Listener is one of a program without libfabric. There is none.
type Listener struct{}

// Listen returns ErrNotBuilt.
func Listen(string, Config) (*Listener, error) { return nil, ErrNotBuilt }

// Addr is empty.
func (*Listener) Addr() string { return "" }

// Fence does nothing.
func (*Listener) Fence(elastic.Generation) {}

// Close does nothing.
func (*Listener) Close() error { return nil }

// Connect returns ErrNotBuilt.
func (*Listener) Connect(context.Context, transport.ID, []string) (collective.Transport, error) {
	return nil, ErrNotBuilt
}
