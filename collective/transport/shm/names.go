//go:build linux

package shm

import (
	"context"
	"errors"
	"fmt"

	"github.com/farandole-ml/farandole/collective"
	"github.com/farandole-ml/farandole/collective/transport"
	"github.com/farandole-ml/farandole/elastic"
)

// names are what errors and goodbyes call ranks: those of a host's part of a larger group have the group's numbers there.
type names struct {
	ranks []int // nil: their own numbers
	total int   // ranks of the group
}

func (n names) of(rank int) int {
	if n.ranks == nil {
		return rank
	}
	return n.ranks[rank]
}

// ConnectPart forms one host's part of a group of total ranks, as Connect does: ranks are the group's ranks in it, addrs
// their addresses, and id.Rank is a place among these. The transport counts ranks by those places; in its errors, and in
// those that it is aborted with, they have the group's numbers.
func (l *Listener) ConnectPart(ctx context.Context, id transport.ID, addrs []string, ranks []int, total int) (collective.Transport, error) {
	return l.connect(ctx, id, addrs, names{ranks, total})
}

// rename makes an error of a mesh, which counts ranks by their places, call them by their names.
func (n names) rename(gen elastic.Generation, err error) error {
	var pe *collective.PeerError
	if n.ranks == nil || !errors.As(err, &pe) {
		return err
	}
	return fmt.Errorf("shm: generation %d: %w", gen, &collective.PeerError{Rank: n.of(pe.Rank), Op: pe.Op, Err: pe.Err})
}

// readFarewell is the goodbye of rank from, during an operation of kind doing.
func (t *member) readFarewell(n note, from int, doing collective.OpKind) *collective.PeerError {
	return collective.ReadFarewell([]byte(n.text), t.names.of(from), t.names.of(t.id.Rank), t.names.total, doing)
}
