//go:build cuda

package cuda

// #include "driver.h"
import "C"

import (
	"fmt"
	"log/slog"
	"os"
	"unsafe"
)

const (
	// graphsKept is how many sequences of calls a device remembers. A step has one for each time that the queue is flushed: at a copy
	// to the host, at a Fetch. The least recently used goes.
	graphsKept = 64
	// graphLeast is the fewest calls that are made a graph.
	graphLeast = 8
)

// graphs launches sequences of calls that come again as CUDA graphs: the same kernels, grids and sizes in the same order, with any
// addresses and parameters. A sequence becomes a graph when it comes for the second time.
type graphs struct {
	log  *slog.Logger
	off  bool
	tick int64 // sequences so far
	kept []*graph
}

// graph is a sequence that was seen; once it was seen twice, with its calls as the graph has them.
type graph struct {
	hash  uint64
	n     int   // calls
	used  int64 // the tick of its last use
	calls []call
	nodes []unsafe.Pointer
	c     C.struct_farandole_graph
}

func newGraphs(log *slog.Logger) *graphs {
	return &graphs{log: log, off: os.Getenv("FARANDOLE_CUDA_GRAPHS") == "0" || os.Getenv("CUDA_LAUNCH_BLOCKING") == "1"}
}

// runGraph launches the queue as a graph. done is false when it is to be submitted call by call. The context is current.
func (d *device) runGraph() (done bool, err error) {
	s := d.graphs
	if s.off || len(d.queue) < graphLeast || opaque(d.queue) {
		return false, nil
	}
	s.tick++
	g := s.find(d.queue)
	if g == nil {
		return false, s.remember(d.queue)
	}
	g.used = s.tick
	if len(g.nodes) == 0 {
		err = d.build(g)
	} else {
		err = d.update(g)
	}
	if err != nil {
		s.off = true
		s.log.Warn("the driver makes no CUDA graph: work goes on call by call", "device", d.name, "err", described(err))
		_ = s.close() // an error of the GPU itself comes out of the calls
		return false, nil
	}
	if err := driverError(C.farandole_graph_launch(&g.c, handle(d.stream))); err != nil {
		return true, fmt.Errorf("%w, in one of %d operations up to this one; the environment's CUDA_LAUNCH_BLOCKING=1 tells which", described(err), len(d.queue))
	}
	return true, nil
}

// find gives the sequence that queue is, or nil.
func (s *graphs) find(queue []call) *graph {
	hash := hashOf(queue)
	for _, g := range s.kept {
		if g.hash == hash && g.n == len(queue) && g.fits(queue) {
			return g
		}
	}
	return nil
}

// fits says whether queue has the shape of the calls that g has, if it has any.
func (g *graph) fits(queue []call) bool {
	for i := range g.calls {
		if g.calls[i].shape() != queue[i].shape() {
			return false
		}
	}
	return true
}

// remember takes queue down as seen, in the place of the one that was not used for the longest time.
func (s *graphs) remember(queue []call) (err error) {
	var g *graph
	if len(s.kept) < graphsKept {
		g = &graph{}
		s.kept = append(s.kept, g)
	} else {
		g = s.kept[0]
		for _, k := range s.kept {
			if k.used < g.used {
				g = k
			}
		}
		err = g.drop()
	}
	g.hash, g.n, g.used = hashOf(queue), len(queue), s.tick
	return err
}

// drop frees what the driver has of g. A launch that runs ends as it would.
func (g *graph) drop() error {
	clear(g.calls) // which refer to memory of the host
	g.calls, g.nodes = g.calls[:0], g.nodes[:0]
	return driverError(C.farandole_graph_drop(&g.c))
}

func (s *graphs) close() (err error) {
	for _, g := range s.kept {
		if e := g.drop(); err == nil {
			err = e
		}
	}
	s.kept = nil
	return err
}

// build makes g the graph of the queue.
func (d *device) build(g *graph) error {
	if err := driverError(C.farandole_graph_begin(&g.c)); err != nil {
		return err
	}
	g.calls = append(g.calls[:0], d.queue...)
	for i := range g.calls {
		g.nodes = append(g.nodes, nil)
		if err := d.node(g, i); err != nil {
			return err
		}
	}
	return driverError(C.farandole_graph_end(&g.c))
}

// update gives g what differs in the queue from its calls.
func (d *device) update(g *graph) error {
	for i := range d.queue {
		if c := &d.queue[i]; !g.calls[i].same(c) {
			g.calls[i] = *c
			if err := d.node(g, i); err != nil {
				return err
			}
		}
	}
	return nil
}

// node adds call i to g, or changes it there.
func (d *device) node(g *graph, i int) error {
	c, node, ctx := &g.calls[i], &g.nodes[i], handle(d.ctx)
	a := &c.args
	switch c.action {
	case launchKernel:
		return driverError(C.farandole_graph_kernel(&g.c, node, handle(d.functions[c.kernel]), c.grid.c(), c.block.c(), C.uint(c.shared), (*C.uint64_t)(&a[0]), C.int(c.n)))
	case fillZeros:
		return driverError(C.farandole_graph_zeros(&g.c, node, ctx, C.uint64_t(a[0]), C.uint64_t(a[1])))
	case copyOn:
		return driverError(C.farandole_graph_copy(&g.c, node, ctx, nil, C.uint64_t(a[0]), nil, C.uint64_t(a[1]), C.uint64_t(a[2])))
	case copyIn:
		return driverError(C.farandole_graph_copy(&g.c, node, ctx, nil, C.uint64_t(a[0]), c.host, 0, C.uint64_t(a[1])))
	default:
		return driverError(C.farandole_graph_copy(&g.c, node, ctx, c.host, 0, nil, C.uint64_t(a[0]), C.uint64_t(a[1])))
	}
}

// opaque says whether a call in the queue is of kernels that are not known here, so that no graph has it.
func opaque(queue []call) bool {
	for i := range queue {
		if queue[i].action == callLibrary {
			return true
		}
	}
	return false
}

// shape is what calls of one sequence have in common, whenever it comes.
type shape struct {
	action      action
	kernel      kernel
	grid, block dim
	shared, n   int
	size        uint64 // of what is copied or zeroed
}

func (c *call) shape() shape {
	s := shape{action: c.action, n: c.n}
	if c.action == launchKernel {
		s.kernel, s.grid, s.block, s.shared = c.kernel, c.grid, c.block, c.shared
	} else {
		s.size = c.args[c.n-1]
	}
	return s
}

// same says whether calls of one shape do the same.
func (c *call) same(o *call) bool {
	for i := range c.n {
		if c.args[i] != o.args[i] {
			return false
		}
	}
	return c.host == o.host
}

func hashOf(queue []call) uint64 {
	const prime = 1099511628211 // FNV's
	h := uint64(14695981039346656037)
	for i := range queue {
		s := queue[i].shape()
		for _, x := range [...]uint64{
			uint64(s.action), uint64(s.kernel), uint64(s.grid.x), uint64(s.grid.y), uint64(s.grid.z), uint64(s.block.x), uint64(s.block.y), uint64(s.block.z),
			uint64(s.shared), uint64(s.n), s.size,
		} {
			h = (h ^ x) * prime
		}
	}
	return h
}
