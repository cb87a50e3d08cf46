package kernels

import (
	"runtime"
	"sync/atomic"
)

// packer is an engine that computes a matrix product from packed factors; see matmulPart. Rows come in tiles, columns in
// panels. All methods treat the terms [k0,k1), which begin and end where canonical blocks do.
type packer interface {
	// tiling is the most rows of a tile and the columns of a panel.
	tiling() (rows, columns int)
	// inPlace says whether matmulColumns had better read t.a's rows where they lie than packed.
	inPlace(t *matmulTask) bool
	// packRows packs tiles [r0,r1) of t.a, packColumns panels [p0,p1) of t.b.
	packRows(t *matmulTask, dst []float32, k0, k1, r0, r1 int)
	packColumns(t *matmulTask, dst []float32, k0, k1, p0, p1 int)
	// matmulColumns computes panels [p0,p1) of t.c from all packed rows, or in place when packed is nil, matmulRows tiles [r0,r1) from all packed columns.
	// soon is the first panel or tile that the same thread may want next, or -1: a hint.
	matmulColumns(t *matmulTask, packed []float32, k0, k1, p0, p1, soon int)
	matmulRows(t *matmulTask, packed []float32, k0, k1, r0, r1, soon int)
}

// matmulPart is a matrix product as a list of units that threads claim in order. The factor of the shorter side is packed
// whole and shared, so that nothing is packed twice, or read in place; a unit then computes a few tiles or panels of the longer side. A product with
// many terms goes through them a stretch at a time: the units of a stretch are first those that pack, then those that compute.
type matmulPart struct {
	matmulTask
	engine packer

	byRows    bool // units of the longer side are tiles of rows, else panels of columns
	sharedLen int  // tiles or panels of the shared side that are packed
	length    int  // tiles or panels of the longer side
	sharedRow int  // floats of the shared side for one term
	stretch   int  // terms

	packs, wide, units int // of one stretch: packing units, computing units of width, computing units in all
	width, last        int // tiles or panels of a computing unit, and of one of the last
	stretches, threads int

	shared           [2][]float32 // by the stretch's parity
	packed, computed atomic.Int32 // units done
}

// unitWidth is the least tiles or panels of most computing units: with more of them a shared piece serves longer while it
// is in the cache. The last quarter of the work, up to singlesPerThread units, goes in the least units, so that threads that run at
// different speeds end together.
const (
	unitWidth        = 4
	singlesPerThread = 16
)

// unitWork is the least multiplications of a computing unit: a few microseconds, beside which it costs little to claim one.
const unitWork = 1 << 16

// packsPerThread is into how many units for each thread a stretch's packing is cut.
const packsPerThread = 2

// sharedFloats bounds one stretch of the shared side: 8 MiB, what stays in the last cache.
const sharedFloats = 2 << 20

// lay cuts the task for threads; with 1 it is cut only as far as the cache wants it. limit bounds one stretch of the shared side.
func (p *matmulPart) lay(t matmulTask, e packer, threads, limit int) {
	rows, columns := e.tiling()
	tiles, panels := (t.m+rows-1)/rows, (t.n+columns-1)/columns
	p.matmulTask, p.engine, p.threads = t, e, threads
	p.byRows = t.m > t.n
	p.sharedLen, p.length, p.sharedRow = tiles, panels, t.m
	if p.byRows {
		p.sharedLen, p.length, p.sharedRow = panels, tiles, panels*columns
	}
	blocks := (t.k + BlockK - 1) / BlockK
	if !p.byRows && e.inPlace(&p.matmulTask) {
		p.sharedLen, p.sharedRow = 0, 0
	}
	p.stretches = (blocks*BlockK*p.sharedRow + limit - 1) / limit
	p.stretches = max(1, min(p.stretches, blocks))
	p.stretch = (blocks + p.stretches - 1) / p.stretches * BlockK
	p.stretches = (t.k + p.stretch - 1) / p.stretch

	each := columns * t.m // multiplications of one tile or panel for one term
	if p.byRows {
		each = rows * t.n
	}
	p.last = max(1, unitWork/(each*min(p.stretch, t.k)))
	singles := 0
	p.packs = min(p.sharedLen, 1)
	if threads > 1 {
		p.packs = min(p.sharedLen, packsPerThread*threads)
		singles = min((p.length+4*p.last-1)/(4*p.last), singlesPerThread*threads)
	}
	// As many units as a list can have, should the side be very long.
	most := max(1, maxParts/4/p.stretches)
	p.width = max(unitWidth*p.last, (p.length+most-1)/most)
	if threads > 1 {
		p.wide = max(0, p.length-singles*p.last) / p.width
		p.units = p.wide + (p.length-p.wide*p.width+p.last-1)/p.last
	} else {
		p.wide = (p.length + p.width - 1) / p.width
		p.units = p.wide
	}
	for i := range min(p.stretches, len(p.shared)) {
		if n := min(p.stretch, blocks*BlockK) * p.sharedRow; len(p.shared[i]) < n {
			p.shared[i] = AlignedFloats(n)
		}
	}
	p.packed.Store(0)
	p.computed.Store(0)
}

// parts is how many units the task has.
func (p *matmulPart) parts() int { return p.stretches * (p.packs + p.units) }

// begin is where computing unit u begins.
func (p *matmulPart) begin(u int) int {
	if u < p.wide {
		return min(u*p.width, p.length)
	}
	return min(p.wide*p.width+(u-p.wide)*p.last, p.length)
}

func (p *matmulPart) run(i, _ int) {
	s, u := i/(p.packs+p.units), i%(p.packs+p.units)
	k0, k1 := s*p.stretch, min((s+1)*p.stretch, p.k)
	shared := p.shared[s%len(p.shared)]
	if p.packs == 0 {
		shared = nil
	}
	if u < p.packs {
		// Whoever still computes with what this memory held must be done. The stretch before must be packed, because packed counts
		// units and not whose they are.
		await(&p.computed, (s-1)*p.units)
		await(&p.packed, s*p.packs)
		from, to := p.sharedLen*u/p.packs, p.sharedLen*(u+1)/p.packs
		if p.byRows {
			p.engine.packColumns(&p.matmulTask, shared, k0, k1, from, to)
		} else {
			p.engine.packRows(&p.matmulTask, shared, k0, k1, from, to)
		}
		p.packed.Add(1)
		return
	}
	u -= p.packs
	// The stretch before has to be in c: sums are added in order.
	await(&p.packed, (s+1)*p.packs)
	await(&p.computed, s*p.units)
	from, to, soon := p.begin(u), p.begin(u+1), p.begin(u+p.threads)
	if soon >= p.length {
		soon = -1
	}
	if p.byRows {
		p.engine.matmulRows(&p.matmulTask, shared, k0, k1, from, to, soon)
	} else {
		p.engine.matmulColumns(&p.matmulTask, shared, k0, k1, from, to, soon)
	}
	p.computed.Add(1)
}

// await waits until done has reached n. Units are claimed in order, so those that it waits for are running.
func await(done *atomic.Int32, n int) {
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

// matmulSet is the products of one operation, and the column sums that go with them: one list of parts, so that threads
// that are through with one product begin the next.
type matmulSet struct {
	products [2]matmulPart
	used     int
	sums     columnSumsPart
	sumParts int
}

func (s *matmulSet) parts() int {
	n := s.sumParts
	for i := range s.used {
		n += s.products[i].parts()
	}
	return n
}

func (s *matmulSet) run(i, _ int) {
	for j := range s.used {
		n := s.products[j].parts()
		if i < n {
			s.products[j].run(i, n)
			return
		}
		i -= n
	}
	s.sums.run(i, s.sumParts)
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
			s.products[i].lay(t, e, threads, d.sharedFloats)
		}
		if threads == 1 {
			d.tasks.inTurn = inTurn{s, s.parts()}
			d.pool.run(&d.tasks.inTurn, 1)
			return
		}
		d.pool.run(s, s.parts())
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
