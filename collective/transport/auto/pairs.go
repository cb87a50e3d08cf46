package auto

import (
	"errors"

	"github.com/farandole-ml/farandole/collective"
)

// onHosts is a group on several hosts, some of whose ranks share one: the ranks of this host speak through its memory, the
// others over connections. The connections are all ranks', so that one that ends is noticed whoever it leads to; what
// ends either side ends both.
//
// It is no Duplex: a Recv through memory cannot send over connections meanwhile.
type onHosts struct {
	collective.Transport // the connections
	far                  farSide
	near                 nearSide
	place                []int // by rank: its place in near; -1: on another host
}

// farSide is what package stream's transports can do.
type farSide interface {
	collective.Eager
	collective.Marker
	collective.Topology
}

// nearSide is what package shm's transports can do.
type nearSide interface {
	collective.Sharer
	collective.Eager
	collective.Marker
	collective.Allocator
}

// join makes one transport of the connections between all ranks and of the memory of the ranks here. It owns both.
// Whatever ends far must abort near.
func join(far collective.Transport, near collective.Transport, here []int) collective.Transport {
	t := &onHosts{Transport: far, far: far.(farSide), near: near.(nearSide), place: make([]int, far.World())}
	for r := range t.place {
		t.place[r] = -1
	}
	for i, r := range here {
		t.place[r] = i
	}
	return t
}

func (t *onHosts) Host(rank int) string { return t.far.Host(rank) }

// SharedOnHost implements collective.HostSharer.
func (t *onHosts) SharedOnHost() collective.SharedMemory { return t.near.Shared() }

func (t *onHosts) Mark(op collective.Op) {
	t.far.Mark(op)
	t.near.Mark(op)
}

func (t *onHosts) Send(to int, b []byte) error {
	if i := t.place[to]; i >= 0 {
		return t.heed(t.near.Send(i, b))
	}
	return t.Transport.Send(to, b)
}

func (t *onHosts) TrySend(to int, b []byte) (bool, error) {
	if i := t.place[to]; i >= 0 {
		ok, err := t.near.TrySend(i, b)
		return ok, t.heed(err)
	}
	return t.far.TrySend(to, b)
}

func (t *onHosts) Recv(from int, b []byte) error {
	if i := t.place[from]; i >= 0 {
		return t.heed(t.near.Recv(i, b))
	}
	return t.Transport.Recv(from, b)
}

// heed ends the connections when the memory has ended with err.
func (t *onHosts) heed(err error) error {
	if err != nil {
		t.Abort(err)
	}
	return err
}

func (t *onHosts) Close() error {
	err := t.Transport.Close() // aborts near
	return errors.Join(err, t.near.Close())
}

func (t *onHosts) Alloc(bytes int) ([]byte, error) { return t.near.Alloc(bytes) }
func (t *onHosts) Free(b []byte) error             { return t.near.Free(b) }
