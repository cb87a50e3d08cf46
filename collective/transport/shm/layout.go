//go:build linux

package shm

import (
	"sync/atomic"
	"unsafe"

	"github.com/farandole-ml/farandole/collective"
)

// Every rank has one segment, which all ranks of the group map. Only its owner writes what it publishes there; peers
// write the words by which they ask to be woken and by which they say what they have read from a ring.
//
//	line 0, slot 0 | line 1, slot 1 | result 0 | result 1 | places 0 | places 1 | a ring to each rank
//
// What meeting number n publishes is in the line, slot, result and places with the number n&1 (see meeting).
const (
	lineBytes = 64

	// defaultStageBytes makes the segments of up to eight ranks, with the rest, one huge page each.
	defaultStageBytes = 480 << 10

	// maxPlaces bounds a rank's partials of one tree reduction.
	maxPlaces = 64

	// A ring to one rank has ringsBytes divided by the world size, within these limits.
	ringsBytes   = 512 << 10
	minRingBytes = 16 << 10
	maxRingBytes = 256 << 10

	maxWorld = 1 << 12
)

// place says where in a rank's registered memory an array begins. Buffer 0 is memory that peers cannot touch.
type place struct {
	offset uint64
	buffer uint32
}

// flagStaged in a line says that peers cannot touch an array of this rank, and that its slot has the first block.
const flagStaged = 1

// line is what a rank publishes for one meeting. It fills a cache line.
type line struct {
	count    uint32 // atomic: the number of the last meeting that was published here
	sleepers uint32 // atomic: how many peers wait for count in the kernel
	seq      uint32
	shape    uint32
	bytes    uint64
	kind     uint32
	flags    uint32
	in, out  uint64 // offsets of places
	buffers  [2]uint32
	left     uint32 // atomic: not zero when the rank has given the group up
	held     uint32 // then: the number of the last meeting that it has seen held
}

func (l *line) inPlace() place  { return place{l.in, l.buffers[0]} }
func (l *line) outPlace() place { return place{l.out, l.buffers[1]} }

func (l *line) op() collective.Op {
	return collective.Op{Kind: collective.OpKind(l.kind), Seq: l.seq, Bytes: l.bytes, Shape: l.shape}
}

// word is a number that one rank sets and another waits for, alone in its cache line.
type word struct {
	value    uint32 // atomic
	sleepers uint32 // atomic
	_        [lineBytes - 8]byte
}

// set publishes v and wakes those who sleep.
func (w *word) set(v uint32) { publishWord(&w.value, &w.sleepers, v) }

func publishWord(value, sleepers *uint32, v uint32) {
	atomic.StoreUint32(value, v)
	if atomic.LoadUint32(sleepers) != 0 {
		wakeWord(value)
	}
}

// ring is a queue of bytes from one rank to another. Positions count bytes and wrap around.
type ring struct {
	head *word // what the reader has read; set by the reader
	tail *word // what the writer has written
	data []byte
}

// segment is a rank's segment as it lies in this process.
type segment struct {
	mem    []byte
	line   [2]*line
	slot   [2][]byte
	result [2][]byte // half a slot: the largest part of a block, one of two, and what rounding adds
	places [2]*[maxPlaces]place
	rings  []ring // by receiver
}

func ringBytes(world int) int {
	n := maxRingBytes
	for n > minRingBytes && n*world > ringsBytes {
		n /= 2
	}
	return n
}

// segmentBytes is the length of the segments of a group.
func segmentBytes(world, stageBytes int) int { return roundUp(layOut(&segment{}, world, stageBytes)) }

// layOut divides s.mem among s's fields and gives the bytes that they take. Without memory it only counts.
func layOut(s *segment, world, stageBytes int) int {
	at := 0
	next := func(n int) []byte {
		lo := at
		at += (n + lineBytes - 1) / lineBytes * lineBytes
		if s.mem == nil {
			return nil
		}
		return s.mem[lo : lo+n : lo+n]
	}
	for i := range 2 {
		s.line[i] = (*line)(unsafe.Pointer(unsafe.SliceData(next(lineBytes))))
		s.slot[i] = next(stageBytes)
	}
	for i := range 2 {
		s.result[i] = next(512 << 10)
		s.places[i] = (*[maxPlaces]place)(unsafe.Pointer(unsafe.SliceData(next(int(unsafe.Sizeof([maxPlaces]place{}))))))
	}
	s.rings = make([]ring, world)
	for r := range s.rings {
		s.rings[r].head = (*word)(unsafe.Pointer(unsafe.SliceData(next(lineBytes))))
		s.rings[r].tail = (*word)(unsafe.Pointer(unsafe.SliceData(next(lineBytes))))
		s.rings[r].data = next(ringBytes(world))
	}
	return at
}
