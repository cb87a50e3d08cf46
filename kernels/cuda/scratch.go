//go:build cuda

package cuda

import "gorgonia.org/cu"

// purpose is what a piece of scratch memory is for.
type purpose int

const (
	scratchPlanes     purpose = iota // values of canonical blocks
	scratchColumns                   // what is under a convolution's window
	scratchGradient                  // the gradient of that
	scratchStatistics                // of the rows of attention
	scratchA                         // factors that are rounded to bfloat16
	scratchB
	scratchWorkspace // of the library of products
	scratchBias      // for it, where a bias is not aligned
	scratchCount
)

// scratch is memory that an operation uses and nobody else sees. It grows and never shrinks, so that a step after the
// largest one allocates nothing; the next operation that uses it comes after on the stream.
type scratch struct {
	at     cu.DevicePtr
	values int
}

// room gives scratch memory for n values. ok is false when there is none: the error sticks then.
func (d *device) room(op string, p purpose, n int) (at uint64, ok bool) {
	s := &d.scratch[p]
	if s.values < n && d.err == nil {
		if s.values > 0 {
			d.pool.give(sizeClass(4*int64(s.values)), s.at)
			*s = scratch{}
		}
		at, err := d.take(sizeClass(4 * int64(n)))
		if err != nil {
			_ = d.fail(op, err)
			return 0, false
		}
		*s = scratch{at, n}
	}
	return uint64(s.at), d.err == nil
}
