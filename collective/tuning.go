package collective

import (
	"log/slog"
	"unsafe"
)

// Tuning has the sizes and choices by which a group runs its algorithms. All ranks must use equal values.
type Tuning struct {
	// ChunkBytes is the unit in which large buffers are pipelined: a chunk is added and forwarded while the next
	// one arrives. Larger means fewer messages; smaller means that more of the work overlaps. Zero means 1 MiB.
	ChunkBytes int

	// DirectBytes is how many bytes a rank may receive in one operation for which every rank sends everything to
	// every other, in one round, instead of sharing the work in two or more. Larger saves rounds on a network
	// with high latency, smaller saves bytes. Zero means 64 KiB; negative means never.
	DirectBytes int

	// Algorithm is used for all operations that have it, whatever the table says. Auto means the table, or
	// shared memory where the transport has it.
	Algorithm Algorithm

	// Table chooses algorithms by operation, size, world and hosts; `farandole bench --tune` measures one. Nil
	// means DefaultTable. It must not change while the group lives.
	Table *Table

	// Wire is how ReduceTree's values travel where the call does not say. It is part of a job's arithmetic.
	Wire Wire

	// Logger is told, once, when registered memory is exhausted. Nil means slog.Default().
	Logger *slog.Logger
}

func (t Tuning) withDefaults() Tuning {
	if t.ChunkBytes <= 0 {
		t.ChunkBytes = 1 << 20
	}
	t.ChunkBytes = max(t.ChunkBytes/4*4, 4)
	if t.DirectBytes == 0 {
		t.DirectBytes = 64 << 10
	}
	if t.Table == nil {
		t.Table = DefaultTable()
	}
	if t.Logger == nil {
		t.Logger = slog.Default()
	}
	return t
}

// isDirect says whether an operation whose ranks hold copies buffers of n bytes in all runs in one round.
func (t Tuning) isDirect(n, copies int) bool { return n <= t.DirectBytes/max(copies, 1) }

// lineBytes is the alignment of the places where large buffers are cut.
const lineBytes = 64

// cut is where part i of parts of n bytes begins: parts of nearly equal length, each beginning at a multiple of unit.
func cut(n, parts, i, unit int) int {
	if i == parts {
		return n
	}
	return n / unit * i / parts * unit
}

// span is a byte range of a buffer.
type span struct{ lo, hi int }

func (s span) of(b []byte) []byte { return b[s.lo:s.hi] }

// grid cuts a buffer into one segment for each rank and every segment into the same number of chunks. Chunks may be
// empty; empty ones are not sent.
type grid struct {
	bytes, world int
	unit         int // cuts fall on multiples of it
	chunks       int // per segment
}

func newGrid(bytes, world, chunkBytes int) grid {
	unit := lineBytes
	if bytes < 2*lineBytes*world {
		unit = 4
	}
	g := grid{bytes: bytes, world: world, unit: unit}
	g.chunks = max(1, (bytes/world+unit+chunkBytes-1)/chunkBytes)
	return g
}

func (g grid) segment(rank int) span {
	return span{cut(g.bytes, g.world, rank, g.unit), cut(g.bytes, g.world, rank+1, g.unit)}
}

func (g grid) chunk(rank, c int) span {
	s := g.segment(rank)
	n := s.hi - s.lo
	return span{s.lo + cut(n, g.chunks, c, g.unit), s.lo + cut(n, g.chunks, c+1, g.unit)}
}

func bytesOf(f []float32) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(f))), 4*len(f))
}

// floatsOf is the inverse of bytesOf: b must be part of a float32 slice, cut between elements.
func floatsOf(b []byte) []float32 {
	return unsafe.Slice((*float32)(unsafe.Pointer(unsafe.SliceData(b))), len(b)/4)
}

// grow makes *b hold n floats, reusing its memory.
func grow(b *[]float32, n int) []float32 {
	if cap(*b) < n {
		*b = make([]float32, n)
	}
	return (*b)[:n]
}
