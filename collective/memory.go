package collective

import (
	"errors"
	"fmt"
	"os"
	"unsafe"
)

// Alloc gives zeroed, page-aligned memory in which operations of this group need no copies, if the transport has such;
// else, or when that is exhausted, ordinary memory, and the log says so once. It is an error when the group, or a peer, has ended. The
// memory must go back by Free, and is not to be used afterwards. It is safe for concurrent use.
func (g *Group) Alloc(bytes int) ([]byte, error) {
	if bytes < 0 {
		return nil, fmt.Errorf("%w: %d bytes of memory", ErrMisuse, bytes)
	}
	if g.allocator != nil && bytes > 0 {
		b, err := g.allocator.Alloc(bytes)
		if err == nil {
			g.registered.Store(unsafe.SliceData(b), struct{}{})
			return b, nil
		}
		if !errors.Is(err, ErrNoMemory) {
			return nil, err
		}
		if g.exhausted.CompareAndSwap(false, true) {
			g.tuning.Logger.Warn("no registered memory: buffers are copied from now on", "bytes", bytes, "err", err)
		}
	}
	page := os.Getpagesize()
	b := make([]byte, bytes+page)
	skip := -int(uintptr(unsafe.Pointer(&b[0]))) & (page - 1)
	return b[skip : skip+bytes : skip+bytes], nil
}

// Registers says whether Alloc gives memory in which operations need no copies, as far as is known.
func (g *Group) Registers() bool { return g.allocator != nil && !g.exhausted.Load() }

// Free takes back what Alloc gave.
func (g *Group) Free(b []byte) error {
	if _, ok := g.registered.LoadAndDelete(unsafe.SliceData(b)); ok {
		return g.allocator.Free(b)
	}
	return nil
}
