//go:build cuda

package cuda

// #include "driver.h"
import "C"

import (
	"embed"
	"fmt"
	"runtime"
	"unsafe"

	"gorgonia.org/cu"

	"github.com/farandole-ml/farandole/kernels"
)

//go:embed ptx/*.ptx
var ptx embed.FS

// device is one GPU. Operations go to a queue, in batches to the driver, and there to one stream, which does them in order. A second stream
// has what is fetched beside them.
// After the first error, which Sync and Download tell, nothing is done any more.
type device struct {
	shapes     kernels.Shapes
	name       string
	class      string
	tiling     *tiling   // of products
	cublasLt   *cublasLt // multiplies in place of the tiling where it can; nil: nowhere
	ordinal    cu.Device
	processors int // multiprocessors
	ctx        cu.CUContext
	stream     cu.Stream
	aside      cu.Stream // of fetches
	modules    []cu.Module
	functions  [kernelCount]cu.Function

	queue  []call
	graphs *graphs
	last   string // the last operation that the driver got since the last wait
	err    error

	pool      *pool
	scratch   [scratchCount]scratch
	stage     []float32 // registered; what is copied passes through here
	staged    int       // of it in use until the next wait
	hosts     []hostMemory
	imports   []imported
	exchanges []*exchange // those that were not ended
	fetches   []*fetch    // all that there are, under way or to be used again
	closed    bool

	monitor monitor
}

// open makes a device of the GPU that the driver gives this number.
func open(i int, cfg kernels.Config) (_ *device, err error) {
	d := &device{queue: make([]call, 0, queueLen), graphs: newGraphs(cfg.Logger), pool: newPool()}
	d.shapes = kernels.Shapes{Owner: d}
	if d.ordinal, err = cu.GetDevice(i); err != nil {
		return nil, fmt.Errorf("GPU %d: %w", i, described(err))
	}
	model, err := d.ordinal.Name()
	if err != nil {
		return nil, fmt.Errorf("GPU %d: %w", i, described(err))
	}
	if d.processors, err = d.ordinal.Attribute(cu.MultiprocessorCount); err != nil {
		return nil, fmt.Errorf("GPU %d: %w", i, described(err))
	}
	d.name = fmt.Sprintf("cuda %s, GPU %d", model, i)
	capability, err := d.classify(cfg.Precision)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", d.name, described(err))
	}
	if d.ctx, err = d.ordinal.RetainPrimaryCtx(); err != nil {
		return nil, fmt.Errorf("%s: %w", d.name, described(err))
	}
	if err := d.do(d.prepare); err != nil {
		_ = d.Close()
		return nil, fmt.Errorf("%s: %w", d.name, err)
	}
	if cfg.Products == kernels.ProductsCuBLASLt {
		if err := d.do(d.useCuBLASLt); err != nil {
			_ = d.Close()
			return nil, fmt.Errorf("%s: %w", d.name, err)
		}
	} else if err := d.chooseWGMMA(capability, cfg.Logger); err != nil {
		_ = d.Close()
		return nil, err
	}
	return d, nil
}

// classify sets the numerics class. The bits of products of bfloat16 are those of the GPU's matrix unit, so their class names its
// compute capability, which is given too, as 90 for 9.0; 0 in class f32, which needs none.
func (d *device) classify(precision string) (capability int, err error) {
	if precision != kernels.ClassBF16 {
		d.class, d.tiling = kernels.ClassF32, &tilingF32
		return 0, nil
	}
	major, err := d.ordinal.Attribute(cu.ComputeCapabilityMajor)
	if err != nil {
		return 0, err
	}
	minor, err := d.ordinal.Attribute(cu.ComputeCapabilityMinor)
	d.class, d.tiling = fmt.Sprintf("%ssm_%d%d", kernels.ClassBF16MMA, major, minor), &tilingBF16
	return 10*major + minor, err
}

// prepare makes the streams, has the driver compile the kernels for this GPU, and registers the memory that copies pass through.
func (d *device) prepare() (err error) {
	if d.stream, err = cu.MakeStream(cu.NonBlocking); err != nil {
		return described(err)
	}
	if d.aside, err = cu.MakeStream(cu.NonBlocking); err != nil {
		return described(err)
	}
	if err = d.load("ptx/kernels.sm_80.ptx", 0, kMatmulWGMMANT); err != nil {
		return fmt.Errorf("%w; it needs compute capability 8.0 or newer, and a driver for CUDA 11 or newer", err)
	}
	d.stage, err = d.register(stageLen)
	return err
}

// load has the driver compile a file of PTX, and finds in it the kernels from one to before another.
func (d *device) load(file string, from, to kernel) error {
	image, err := ptx.ReadFile(file)
	if err != nil {
		return err
	}
	m, err := cu.LoadData(string(image))
	if err != nil {
		return fmt.Errorf("%s: %w", file, described(err))
	}
	d.modules = append(d.modules, m)
	for k := from; k < to; k++ {
		if d.functions[k], err = m.Function(k.String()); err != nil {
			return fmt.Errorf("kernel %s: %w", k, described(err))
		}
		if sharedBytes[k] > defaultShared {
			if err := driverError(C.farandole_share(handle(d.functions[k]), C.int(sharedBytes[k]))); err != nil {
				return fmt.Errorf("kernel %s with %d bytes of shared memory: %w", k, sharedBytes[k], err)
			}
		}
	}
	return nil
}

// handle is the driver's handle in x, which has nothing else in it.
func handle[T cu.Function | cu.Stream | cu.CUContext](x T) unsafe.Pointer {
	return *(*unsafe.Pointer)(unsafe.Pointer(&x))
}

func (d *device) Name() string  { return d.name }
func (d *device) Class() string { return d.class }

// Owns and IDs are what kernels.Shapes asks.
func (d *device) Owns(b kernels.Buffer) bool {
	x, ok := b.(*buffer)
	return ok && x.mem.device == d
}

func (d *device) IDs(x kernels.Ints) (ids []int32, ok bool) {
	i, ok := x.(*ints)
	if !ok || i.mem.device != d {
		return nil, false
	}
	return i.values, true
}

// Close waits for the GPU and frees all its memory. Memory of AllocHost stays valid.
func (d *device) Close() error {
	if d.closed {
		return nil
	}
	for len(d.exchanges) > 0 { // before anything waits for what another rank may never send
		_ = d.exchanges[0].Close()
	}
	_ = d.Sync() // a failure was told, or nobody wanted to know
	d.closed = true
	d.monitor.close()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err := cu.SetCurrentContext(d.ctx)
	keep := func(e error) {
		if err == nil {
			err = e
		}
	}
	if len(d.fetches) > 0 {
		keep(d.aside.Synchronize()) // nobody waited, and the memory goes
	}
	for _, f := range d.fetches {
		keep(f.destroy())
	}
	keep(d.graphs.close())
	keep(d.cublasLt.close())
	for _, m := range d.imports {
		keep(m.close())
	}
	keep(release(d.pool.close()))
	for _, h := range d.hosts {
		keep(h.unregister())
	}
	for _, m := range d.modules {
		keep(m.Unload())
	}
	for _, s := range []*cu.Stream{&d.stream, &d.aside} {
		if *s != cu.NoStream {
			keep(s.Destroy())
		}
	}
	keep(d.ordinal.ReleasePrimaryCtx())
	broken := d.err != nil // a GPU that failed frees nothing one by one: its context goes with the process
	_ = d.fail("Close", errClosed)
	if err == nil || broken {
		return nil
	}
	return fmt.Errorf("%s: Close: %w", d.name, described(err))
}
