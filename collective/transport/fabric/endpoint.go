//go:build fabric && cgo && linux

package fabric

/*
#cgo LDFLAGS: -lfabric
#include <stdlib.h>
#include "shim.h"
*/
import "C"

import (
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/farandole-ml/farandole/collective/transport"
)

// endpoint is an open endpoint of libfabric's with a fixed set of operations. Progress is made by whoever polls; one at a
// time does.
type endpoint struct {
	fab     *C.fab
	slots   []slot
	staging []byte
	direct  bool // what is posted may lie outside staging
	longest int  // bytes of a message

	flying atomic.Int32 // sends of small messages that have not ended

	polling sync.Mutex
	passed  chan struct{} // has a token when polling has become free; who takes it polls, or passes it on
	done    [pollBatch]C.fab_done
}

// slot is an operation. Whoever posted it waits for it; nobody else touches it but the one who polls.
type slot struct {
	idle  atomic.Bool   // not posted, or ended
	ready chan struct{} // gets a token when it ends
	bytes int           // that it moved
	err   error         // how it ended
}

const (
	pollBatch  = 16
	pollSpins  = 400 // before waiting: a message that is on its way comes within that time
	lastLooks  = 100 // at the completions after a peer has gone: a provider may need several to bring what has come
	pollMillis = 1   // the longest wait: a provider may not notice what is posted meanwhile
)

// openEndpoint opens an endpoint bound to the interface of node.
func openEndpoint(provider, node string, ops, stagingBytes int) (*endpoint, error) {
	p, n := C.CString(provider), C.CString(node)
	defer C.free(unsafe.Pointer(p))
	defer C.free(unsafe.Pointer(n))
	var f *C.fab
	var why *C.char
	needs := C.fab_needs{ops: C.size_t(ops), staging_bytes: C.size_t(stagingBytes), least: transport.HeaderBytes + smallBytes, tag_bits: tagBits}
	if rc := C.fab_open(&f, p, n, &needs, &why); rc != 0 {
		return nil, fmt.Errorf("libfabric provider %q at %s: %s: %s (fi_info lists the providers)", provider, node, C.GoString(why), C.GoString(C.fab_strerror(rc)))
	}
	e := &endpoint{
		fab: f, slots: make([]slot, ops),
		staging: unsafe.Slice((*byte)(C.fab_staging(f)), stagingBytes),
		direct:  C.fab_direct(f) != 0,
		longest: int(min(uint64(C.fab_max_message(f)), maxPieceBytes)),
		passed:  make(chan struct{}, 1),
	}
	for i := range e.slots {
		e.slots[i].ready = make(chan struct{}, 1)
		e.slots[i].idle.Store(true)
	}
	return e, nil
}

// close ends the endpoint. No other method may be running. Nothing refers to any buffer afterwards.
func (e *endpoint) close() { C.fab_close(e.fab) }

// provider is the name of the one that is used.
func (e *endpoint) provider() string { return C.GoString(C.fab_provider(e.fab)) }

func (e *endpoint) name() ([]byte, error) {
	var b [maxNameBytes]byte
	n := C.size_t(len(b))
	if rc := C.fab_name(e.fab, unsafe.Pointer(&b), &n); rc != 0 {
		return nil, fmt.Errorf("libfabric: fi_getname: %s", C.GoString(C.fab_strerror(rc)))
	}
	return b[:n], nil
}

// insert makes name the address of rank to.
func (e *endpoint) insert(name []byte, to int) error {
	b := make([]byte, maxNameBytes) // a provider reads as much as its addresses have
	copy(b, name)
	if rc := C.fab_insert(e.fab, unsafe.Pointer(unsafe.SliceData(b)), C.uint64_t(to)); rc != 0 {
		return fmt.Errorf("libfabric: fi_av_insert: %s", C.GoString(C.fab_strerror(rc)))
	}
	return nil
}

// send posts operation op: b to rank to. b must stay where it is, and unchanged, until the operation has ended. False
// means that there is no room for it now.
func (e *endpoint) send(op int, b []byte, to int, tag uint64) (bool, error) {
	e.begin(op)
	return e.posted(op, "fi_tsend", C.fab_send(e.fab, C.uint64_t(op), unsafe.Pointer(unsafe.SliceData(b)), C.size_t(len(b)), C.uint64_t(to), C.uint64_t(tag)))
}

// recv posts operation op: fill b. b must stay where it is until the operation has ended.
func (e *endpoint) recv(op int, b []byte, tag uint64) (bool, error) {
	e.begin(op)
	return e.posted(op, "fi_trecv", C.fab_recv(e.fab, C.uint64_t(op), unsafe.Pointer(unsafe.SliceData(b)), C.size_t(len(b)), C.uint64_t(tag)))
}

func (e *endpoint) begin(op int) {
	s := &e.slots[op]
	select {
	case <-s.ready: // of the time before
	default:
	}
	s.idle.Store(false)
}

func (e *endpoint) posted(op int, what string, rc C.int) (bool, error) {
	if rc == 0 {
		return true, nil
	}
	e.slots[op].idle.Store(true)
	if C.fab_again(rc) != 0 {
		return false, nil
	}
	return false, fmt.Errorf("libfabric: %s: %s", what, C.GoString(C.fab_strerror(rc)))
}

// poll lets libfabric make progress and marks the operations that have ended. It waits for up to millis. False means that
// somebody else is polling.
func (e *endpoint) poll(spins, millis int) bool {
	if !e.polling.TryLock() {
		return false
	}
	e.take(spins, millis)
	e.polling.Unlock()
	e.pass()
	return true
}

// take gives the number of operations that have ended. The caller holds polling.
func (e *endpoint) take(spins, millis int) int {
	n := C.fab_poll(e.fab, &e.done[0], pollBatch, C.int(spins), C.int(millis))
	for _, d := range e.done[:n] {
		s := &e.slots[d.op]
		s.bytes, s.err = int(d.bytes), nil
		if d.err != 0 {
			s.err = fmt.Errorf("libfabric: %s", C.GoString(C.fab_strerror(d.err)))
		}
		if isSmallSend(int(d.op)) {
			e.flying.Add(-1)
		}
		s.idle.Store(true)
		select {
		case s.ready <- struct{}{}:
		default:
		}
	}
	return int(n)
}

// pass lets another one poll.
func (e *endpoint) pass() {
	select {
	case e.passed <- struct{}{}:
	default:
	}
}

// pinned is memory that libfabric may use while it is posted.
type pinned struct{ pinner runtime.Pinner }

func (p *pinned) hold(b []byte) {
	if len(b) > 0 {
		p.pinner.Pin(unsafe.SliceData(b))
	}
}

func (p *pinned) drop() { p.pinner.Unpin() }

// more polls once and says whether something may have come, so that it pays to look again.
func (e *endpoint) more() bool {
	e.polling.Lock()
	defer e.pass()
	defer e.polling.Unlock()
	return e.take(0, 0) > 0
}

// nudge makes whoever waits look around.
func (e *endpoint) nudge() {
	C.fab_wake(e.fab)
	e.pass()
}

// stir ends the wait of whoever is polling, so that the provider looks at what was posted.
func (e *endpoint) stir() {
	if e.polling.TryLock() {
		e.polling.Unlock()
		e.pass()
		return
	}
	C.fab_wake(e.fab)
}
