//go:build linux

package shm

import (
	"encoding/binary"
	"fmt"
	"sync/atomic"

	"github.com/farandole-ml/farandole/collective"
)

// A message in a ring is a header and its bytes, filled up to a multiple of recordBytes. The header has the operation, the
// number of the message on this ring, from 1, and its length.
const recordBytes = lineBytes

const (
	recordNumber = opBytes
	recordLength = opBytes + 8
)

// opBytes is the length of an encoded Op.
const opBytes = 24

func encodeOp(b []byte, op collective.Op) {
	o := binary.NativeEndian
	o.PutUint32(b[0:], uint32(op.Kind))
	o.PutUint32(b[4:], op.Seq)
	o.PutUint64(b[8:], op.Bytes)
	o.PutUint32(b[16:], op.Shape)
	o.PutUint32(b[20:], 0)
}

func decodeOp(b []byte) collective.Op {
	o := binary.NativeEndian
	return collective.Op{Kind: collective.OpKind(o.Uint32(b[0:])), Seq: o.Uint32(b[4:]), Bytes: o.Uint64(b[8:]), Shape: o.Uint32(b[16:])}
}

// padded is what n bytes take in a ring.
func padded(n int) int { return (n + recordBytes - 1) &^ (recordBytes - 1) }

// Send implements collective.Transport.
func (t *member) Send(to int, b []byte) error {
	if !t.enter() {
		return t.cause()
	}
	defer t.leave()
	p := t.peers[to]
	if gone := p.gone.Load(); gone != nil {
		return t.fail(gone)
	}
	var header [recordBytes]byte
	t.head(p, &header, len(b))
	if err := t.write(p, header[:]); err != nil {
		return t.fail(err)
	}
	if err := t.write(p, b); err != nil {
		return t.fail(err)
	}
	p.written += uint32(padded(len(b)) - len(b))
	t.order.Add(1)
	t.own.rings[to].tail.set(p.written)
	return nil
}

// TrySend implements collective.Eager.
func (t *member) TrySend(to int, b []byte) (bool, error) {
	if !t.enter() {
		return false, t.cause()
	}
	defer t.leave()
	p := t.peers[to]
	if gone := p.gone.Load(); gone != nil {
		return false, t.fail(gone)
	}
	r := &t.own.rings[to]
	room := len(r.data) - int(p.written-atomic.LoadUint32(&r.head.value))
	if room < recordBytes+padded(len(b)) {
		return false, nil
	}
	var header [recordBytes]byte
	t.head(p, &header, len(b))
	r.put(p.written, header[:])
	r.put(p.written+recordBytes, b)
	p.written += uint32(recordBytes + padded(len(b)))
	t.order.Add(1)
	r.tail.set(p.written)
	return true, nil
}

func (t *member) head(p *peer, header *[recordBytes]byte, length int) {
	p.sent++
	encodeOp(header[:], t.marked())
	binary.NativeEndian.PutUint32(header[recordNumber:], p.sent)
	binary.NativeEndian.PutUint64(header[recordLength:], uint64(length))
}

// put copies b to position at, where there is room.
func (r *ring) put(at uint32, b []byte) {
	i := int(at) & (len(r.data) - 1)
	n := copy(r.data[i:], b)
	copy(r.data, b[n:])
}

// get is the inverse of put.
func (r *ring) get(at uint32, b []byte) {
	i := int(at) & (len(r.data) - 1)
	n := copy(b, r.data[i:])
	copy(b[n:], r.data)
}

// pieceOf is the largest part of a ring that is written or read at a time, so that both sides of it are busy.
const pieceOf = 4

// write puts b into the ring to p as room comes, and publishes all but the last piece.
func (t *member) write(p *peer, b []byte) error {
	r := &t.own.rings[p.rank]
	head := atomic.LoadUint32(&r.head.value)
	for len(b) > 0 {
		used := p.written - head
		if used > uint32(len(r.data)) {
			return t.blame(p.rank, fmt.Errorf("%w: it has read %d bytes more than it was sent", ErrCorrupt, -int32(used)))
		}
		room := len(r.data) - int(used)
		if room == 0 {
			t.order.Add(1)
			r.tail.set(p.written)
			var err error
			if head, err = t.await(p.rank, &r.head.value, &r.head.sleepers, head); err != nil {
				return err
			}
			continue
		}
		n := min(len(b), room, len(r.data)/pieceOf)
		r.put(p.written, b[:n])
		p.written += uint32(n)
		if b = b[n:]; len(b) > 0 {
			t.order.Add(1)
			r.tail.set(p.written)
		}
	}
	return nil
}

// Recv implements collective.Transport.
func (t *member) Recv(from int, b []byte) error {
	if !t.enter() {
		return t.cause()
	}
	defer t.leave()
	p := t.peers[from]
	var header [recordBytes]byte
	if err := t.take(p, header[:]); err != nil {
		return t.fail(err)
	}
	p.received++
	got := decodeOp(header[:])
	number := binary.NativeEndian.Uint32(header[recordNumber:])
	length := binary.NativeEndian.Uint64(header[recordLength:])
	if number != p.received {
		return t.fail(t.blame(from, fmt.Errorf("%w: message %d came as number %d", ErrCorrupt, p.received, number)))
	}
	if want := t.marked(); got != want || length != uint64(len(b)) {
		return t.fail(t.blame(from, &collective.OutOfStepError{Got: got, Want: want, GotBytes: length, WantBytes: uint64(len(b))}))
	}
	if err := t.take(p, b); err != nil {
		return t.fail(err)
	}
	p.read += uint32(padded(len(b)) - len(b))
	p.seg.rings[t.id.Rank].head.set(p.read)
	return nil
}

// take fills b from the ring of p as bytes come, and gives the room of all but the last piece back.
func (t *member) take(p *peer, b []byte) error {
	r := &p.seg.rings[t.id.Rank]
	tail := atomic.LoadUint32(&r.tail.value)
	for len(b) > 0 {
		ready := tail - p.read
		if ready > uint32(len(r.data)) {
			return t.blame(p.rank, fmt.Errorf("%w: it says that %d bytes are in a ring of %d", ErrCorrupt, ready, len(r.data)))
		}
		if ready == 0 {
			var err error
			if tail, err = t.await(p.rank, &r.tail.value, &r.tail.sleepers, tail); err != nil {
				return err
			}
			continue
		}
		n := min(len(b), int(ready), len(r.data)/pieceOf)
		t.order.Load()
		r.get(p.read, b[:n])
		p.read += uint32(n)
		if b = b[n:]; len(b) > 0 {
			r.head.set(p.read)
		}
	}
	return nil
}
