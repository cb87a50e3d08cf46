package kernels

// NewReference gives the canonical arithmetic as plain Go on one thread: slow, and by definition right.
// Its operations have ended when they return, Sync and Close do nothing, Host gives the memory itself.
func NewReference() Device {
	return newHostDevice("reference go", ClassF32, reference{}, &pool{threads: 1})
}

// hostDevice is a Device on ordinary memory. It checks shapes, cuts operations into parts and
// has an engine compute them on a pool.
type hostDevice struct {
	name   string
	class  string
	engine engine
	pool   *pool
	tasks  tasks
	shapes Shapes
	pages  pages

	conv convScratch

	minPartWork, sharedFloats, columnFloats int
}

func newHostDevice(name, class string, e engine, p *pool) *hostDevice {
	d := &hostDevice{name: name, class: class, engine: e, pool: p, minPartWork: minPartWork, sharedFloats: sharedFloats, columnFloats: columnFloats}
	d.shapes = Shapes{Owner: d}
	return d
}

func (d *hostDevice) Name() string  { return d.name }
func (d *hostDevice) Class() string { return d.class }
func (d *hostDevice) Sync() error   { return nil }

// Close ends the device's goroutines. Buffers stay readable through Host.
func (d *hostDevice) Close() error {
	d.pool.close()
	return nil
}

// hostBuffer and hostInts are memory of one hostDevice.
type hostBuffer struct {
	device *hostDevice
	x      []float32
}

type hostInts struct {
	device *hostDevice
	x      []int32
}

func (b *hostBuffer) Len() int { return len(b.x) }
func (b *hostInts) Len() int   { return len(b.x) }

func (b *hostBuffer) Slice(off, n int) Buffer {
	CheckSlice(off, n, len(b.x))
	return &hostBuffer{b.device, b.x[off : off+n : off+n]}
}

func (b *hostInts) Slice(off, n int) Ints {
	CheckSlice(off, n, len(b.x))
	return &hostInts{b.device, b.x[off : off+n : off+n]}
}

func (d *hostDevice) Alloc(n int) (Buffer, error) {
	if err := CheckAlloc(n); err != nil {
		return nil, err
	}
	if err := CheckRoom(n); err != nil {
		return nil, err
	}
	return &hostBuffer{d, d.pages.floats(n)}, nil
}

func (d *hostDevice) AllocInts(n int) (Ints, error) {
	if err := CheckAlloc(n); err != nil {
		return nil, err
	}
	return &hostInts{d, make([]int32, n)}, nil
}

func (d *hostDevice) Host(b Buffer) []float32 {
	d.shapes.CheckOwned("Host", "b", b)
	return floats(b)
}

// AllocHost is ordinary memory: nothing is faster to copy from or to.
func (d *hostDevice) AllocHost(n int) []float32 { return make([]float32, n) }

func (d *hostDevice) Upload(dst Buffer, src []float32) {
	d.shapes.CheckLen("Upload", "dst", dst, len(src))
	copy(floats(dst), src)
}

func (d *hostDevice) UploadInts(dst Ints, src []int32) {
	d.shapes.CheckIntsLen("UploadInts", "dst", dst, len(src))
	copy(integers(dst), src)
}

func (d *hostDevice) Download(dst []float32, src Buffer) error {
	d.shapes.CheckLen("Download", "src", src, len(dst))
	copy(dst, floats(src))
	return nil
}

// Owns and IDs are what Shapes asks.
func (d *hostDevice) Owns(b Buffer) bool {
	h, ok := b.(*hostBuffer)
	return ok && h.device == d
}

func (d *hostDevice) IDs(x Ints) (ids []int32, ok bool) {
	h, ok := x.(*hostInts)
	if !ok || h.device != d {
		return nil, false
	}
	return h.x, true
}

// floats is the memory of a checked buffer, nil for nil.
func floats(b Buffer) []float32 {
	if b == nil {
		return nil
	}
	return b.(*hostBuffer).x
}

// integers is the memory of checked Ints.
func integers(x Ints) []int32 { return x.(*hostInts).x }
