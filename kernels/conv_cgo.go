//go:build cgo

package kernels

// #include "cgo.h"
// #cgo noescape farandole_add_columns
// #cgo nocallback farandole_add_columns
// #cgo noescape farandole_max_pool
// #cgo nocallback farandole_max_pool
// #cgo noescape farandole_max_pool_backward
// #cgo nocallback farandole_max_pool_backward
// static inline void farandole_add_columns(const farandole_ops* o, window_args t, long from, long to) {
//   o->add_columns(&t, from, to);
// }
// static inline void farandole_max_pool(const farandole_ops* o, window_args t, long from, long to) {
//   o->max_pool(&t, from, to);
// }
// static inline void farandole_max_pool_backward(const farandole_ops* o, window_args t, long from, long to) {
//   o->max_pool_backward(&t, from, to);
// }
import "C"

func (t *windowTask) args() C.window_args {
	return C.window_args{
		out: ptr(t.out), x: ptr(t.x), dout: ptr(t.dout), height: C.long(t.Height), width: C.long(t.Width), channels: C.long(t.Channels),
		rows: C.long(t.Rows), columns: C.long(t.Columns), stride: C.long(t.Stride), pad: C.long(t.Pad),
		out_height: C.long(t.outHeight), out_width: C.long(t.outWidth), p0: C.long(t.p0),
	}
}

func (e *native) addColumns(t *windowTask, from, to int) {
	C.farandole_add_columns(e.ops, t.args(), C.long(from), C.long(to))
}

func (e *native) maxPool(t *windowTask, from, to int) {
	C.farandole_max_pool(e.ops, t.args(), C.long(from), C.long(to))
}

func (e *native) maxPoolBackward(t *windowTask, from, to int) {
	C.farandole_max_pool_backward(e.ops, t.args(), C.long(from), C.long(to))
}
