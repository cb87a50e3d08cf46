package collective

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

// grid cuts a buffer into one segment for each rank and every segment into the same number of chunks. Chunks may be
// empty; empty ones are not sent.
type grid struct {
	bytes, world int
	unit         int // cuts fall on multiples of it
	chunks       int // per segment
}

// newGrid cuts a buffer of elements of size bytes.
func newGrid(bytes, world, chunkBytes, size int) grid {
	unit := lineBytes
	if bytes < 2*lineBytes*world {
		unit = size
	}
	g := grid{bytes: bytes, world: world, unit: unit}
	g.chunks = max(1, (bytes/world+unit+chunkBytes-1)/chunkBytes)
	return g
}

// partGrid cuts a buffer of world parts of part bytes: each is a segment.
func partGrid(part, world, chunkBytes, size int) grid {
	g := grid{bytes: part * world, world: world, unit: size}
	if part%lineBytes == 0 {
		g.unit = lineBytes
	}
	g.chunks = min(max(1, (part+chunkBytes-1)/chunkBytes), max(1, part/g.unit))
	return g
}

// full says whether no chunk is empty.
func (g grid) full() bool { return g.bytes/g.unit >= g.world*g.chunks }

// largest is the length of the longest chunk, or more.
func (g grid) largest() int {
	return (g.bytes/g.unit/g.world+1)/g.chunks*g.unit + 2*g.unit
}

func (g grid) segment(rank int) span {
	return span{cut(g.bytes, g.world, rank, g.unit), cut(g.bytes, g.world, rank+1, g.unit)}
}

func (g grid) chunk(rank, c int) span {
	s := g.segment(rank)
	n := s.hi - s.lo
	return span{s.lo + cut(n, g.chunks, c, g.unit), s.lo + cut(n, g.chunks, c+1, g.unit)}
}

// pieces is how many messages carry n bytes, and pieceAt the k-th of them. Their cuts fall on multiples of chunk.
func pieces(n, chunk int) int { return (n + chunk - 1) / chunk }

func pieceAt(n, chunk, k int) span { return span{k * chunk, min((k+1)*chunk, n)} }
