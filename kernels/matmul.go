package kernels

import (
	"runtime"
	"sync/atomic"
)

// packer is an engine that computes a matrix product from packed factors; see matmulPart. Rows come in tiles, columns in
// panels. All methods treat the terms [k0,k1), which begin and end where canonical blocks do.
type packer interface {
	// tiling is the most rows of a tile, the columns of a panel, and the least multiplications of a computing unit: a few microseconds, beside which it
	// costs little to take one.
	tiling() (rows, columns, work int)
	// inPlace says whether the shared side, which is the shorter one, had better be read where it lies than packed.
	inPlace(t *matmulTask) bool
	// packRows packs tiles [r0,r1) of t.a, packColumns panels [p0,p1) of t.b.
	packRows(t *matmulTask, dst []float32, k0, k1, r0, r1 int)
	packColumns(t *matmulTask, dst []float32, k0, k1, p0, p1 int)
	// matmulColumns computes panels [p0,p1) of t.c from all packed rows, matmulRows tiles [r0,r1) from all packed columns; from where they lie when
	// packed is nil.
	// soon is the first panel or tile that the same thread may want next, or -1: a hint.
	matmulColumns(t *matmulTask, packed []float32, k0, k1, p0, p1, soon int)
	matmulRows(t *matmulTask, packed []float32, k0, k1, r0, r1, soon int)
}

// matmulPart is a matrix product as phases of units. The factor of the shorter side is packed whole and shared, so that nothing is packed
// twice, or read in place; a unit then computes a few tiles or panels of the longer side. A product with many terms goes through them a
// stretch at a time: one phase packs a stretch, the next computes with it.
type matmulPart struct {
	matmulTask
	engine packer

	byRows    bool // the longer side has tiles of rows, else panels of columns
	sharedLen int  // tiles or panels of the shared side that are packed
	length    int  // tiles or panels of the longer side
	sharedRow int  // floats of the shared side for one term
	stretch   int  // terms

	packs        int // units that pack a stretch
	width, units int // tiles or panels of a unit that computes, and how many there are in a stretch
	stretches    int

	shared           [2][]float32 // by the stretch's parity
	packed, computed atomic.Int64 // units done
}

// maxBite is the most units that a thread takes at a time: a shared piece serves for all of them while it is in the cache.
const maxBite = 4

// packsPerThread is into how many units for each thread a stretch's packing is cut.
const packsPerThread = 2

// sharedFloats bounds one stretch of the shared side: 768 KiB, what stays in a second cache while a thread computes with it.
const sharedFloats = 196608

// maxStretches is how many a product may have, so that a set's phases can be counted: a stretch has two, and column sums come after two products.
const maxStretches = (maxPhases - 1) / (2 * len(matmulSet{}.products))

// lay cuts the task for threads. limit bounds one stretch of the shared side, which comes from mem.
func (p *matmulPart) lay(t matmulTask, e packer, mem *pages, threads, limit int) {
	rows, columns, work := e.tiling()
	tiles, panels := (t.m+rows-1)/rows, (t.n+columns-1)/columns
	p.matmulTask, p.engine = t, e
	p.byRows = t.m > t.n
	p.sharedLen, p.length, p.sharedRow = tiles, panels, tiles*rows
	if p.byRows {
		p.sharedLen, p.length, p.sharedRow = panels, tiles, panels*columns
	}
	blocks := (t.k + BlockK - 1) / BlockK
	if e.inPlace(&p.matmulTask) {
		p.sharedLen, p.sharedRow = 0, 0
	}
	p.stretches = (blocks*BlockK*p.sharedRow + limit - 1) / limit
	p.stretches = max(1, min(p.stretches, blocks, maxStretches))
	p.stretch = (blocks + p.stretches - 1) / p.stretches * BlockK
	p.stretches = (t.k + p.stretch - 1) / p.stretch

	each := columns * t.m // multiplications of one tile or panel for one term
	if p.byRows {
		each = rows * t.n
	}
	p.width = max(1, work/(each*min(p.stretch, t.k)), (p.length+maxUnits-1)/maxUnits)
	p.units = (p.length + p.width - 1) / p.width
	p.packs = min(p.sharedLen, 1)
	if threads > 1 {
		p.packs = min(p.sharedLen, packsPerThread*threads)
	}
	for i := range min(p.stretches, len(p.shared)) {
		if n := min(p.stretch, blocks*BlockK) * p.sharedRow; len(p.shared[i]) < n {
			p.shared[i] = mem.floats(n)
		}
	}
	p.packed.Store(0)
	p.computed.Store(0)
}

// phases is how many the task has.
func (p *matmulPart) phases() int { return 2 * p.stretches }

// phase is how many units a phase has, and how many to take at a time.
func (p *matmulPart) phase(i int) (units, most int) {
	if i%2 == 0 {
		return p.packs, 1
	}
	return p.units, maxBite
}

// run does units [from,to) of a phase, when what they need is there; next is the unit that the same thread will want, or -1.
func (p *matmulPart) run(phase, from, to, next int) {
	s := phase / 2
	k0, k1 := s*p.stretch, min((s+1)*p.stretch, p.k)
	shared := p.shared[s%len(p.shared)]
	if p.packs == 0 {
		shared = nil
	}
	if phase%2 == 0 {
		// Whoever still computes with what this memory held must be done. The stretch before must be packed, because packed counts
		// units and not whose they are.
		await(&p.computed, (s-1)*p.units)
		await(&p.packed, s*p.packs)
		first, last := p.sharedLen*from/p.packs, p.sharedLen*to/p.packs
		if p.byRows {
			p.engine.packColumns(&p.matmulTask, shared, k0, k1, first, last)
		} else {
			p.engine.packRows(&p.matmulTask, shared, k0, k1, first, last)
		}
		p.packed.Add(int64(to - from))
		return
	}
	// The stretch before has to be in c: sums are added in order.
	await(&p.packed, (s+1)*p.packs)
	await(&p.computed, s*p.units)
	first, last, soon := from*p.width, min(to*p.width, p.length), next*p.width
	if next < 0 {
		soon = -1
	}
	if p.byRows {
		p.engine.matmulRows(&p.matmulTask, shared, k0, k1, first, last, soon)
	} else {
		p.engine.matmulColumns(&p.matmulTask, shared, k0, k1, first, last, soon)
	}
	p.computed.Add(int64(to - from))
}

// await waits until done has reached n. A thread asks for a phase's units when those before are taken, so what it waits for is running.
func await(done *atomic.Int64, n int) {
	for int(done.Load()) < n {
		runtime.Gosched()
	}
}

// plainMatmul is a matrix product for an engine that does not pack, cut along its longer side.
type plainMatmul struct {
	matmulTask
	engine engine
}

func (t *plainMatmul) run(i, n int) {
	if t.m > t.n {
		t.engine.matmul(&t.matmulTask, t.m*i/n, t.m*(i+1)/n, 0, t.n)
		return
	}
	t.engine.matmul(&t.matmulTask, 0, t.m, cut(t.n, Lanes, i, n), cut(t.n, Lanes, i+1, n))
}

// matmulSet is the products of one operation, and the column sums that go with them: one list of phases, so that threads
// that are through with one product begin the next. Each of its parts is a thread that goes through all of them.
type matmulSet struct {
	products [2]matmulPart
	used     int
	sums     columnSumsPart
	sumParts int

	ranges ranges
	turns  []turn // one for each thread; none for threads that had better not yield
}

func (s *matmulSet) run(thread, _ int) {
	first := 1
	for i := range s.used {
		p := &s.products[i]
		for phase := range p.phases() {
			units, most := p.phase(phase)
			for {
				from, to, next := s.ranges.take(thread, first+phase, units, most)
				if from == to {
					break
				}
				p.run(phase, from, to, next)
				s.yield(thread)
			}
		}
		first += p.phases()
	}
	for {
		from, to, _ := s.ranges.take(thread, first, s.sumParts, 1)
		if from == to {
			return
		}
		s.sums.run(from, s.sumParts)
	}
}

func (s *matmulSet) yield(thread int) {
	if len(s.turns) > 0 {
		s.turns[thread].yield()
	}
}

// matmul runs up to two products that do not depend on each other, and column sums where sums has some.
func (d *hostDevice) matmul(sums columnSumsTask, products ...matmulTask) {
	work := sums.rows * sums.n
	for _, t := range products {
		work += t.m * t.n * t.k / Lanes
	}
	sumParts := 0
	if sums.rows > 0 {
		sumParts = d.partsFor(sums.rows*sums.n, sums.n)
	}
	if e, ok := d.engine.(packer); ok {
		s := &d.tasks.matmul
		threads := d.pool.threads
		if work/d.minPartWork < 2 {
			threads, sumParts = 1, min(sumParts, 1)
		}
		s.used, s.sumParts = len(products), sumParts
		s.sums = columnSumsPart{sums, d.engine}
		for i, t := range products {
			s.products[i].lay(t, e, &d.pages, threads, d.sharedFloats)
		}
		s.ranges.reset(threads)
		if d.pool.pins == nil && len(s.turns) < threads {
			s.turns = make([]turn, threads)
		}
		d.pool.run(s, threads)
		return
	}
	for _, t := range products {
		d.tasks.plain = plainMatmul{t, d.engine}
		d.pool.run(&d.tasks.plain, d.partsFor(t.m*t.n*t.k/Lanes, max(t.m, t.n)))
	}
	if sumParts > 0 {
		d.tasks.matmul.sums = columnSumsPart{sums, d.engine}
		d.pool.run(&d.tasks.matmul.sums, sumParts)
	}
}
