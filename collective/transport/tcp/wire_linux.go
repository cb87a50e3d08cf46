package tcp

import (
	"io"
	"net"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// wire moves bytes over a connection straight between the kernel and the callers' memory, several pieces in one
// system call, without allocating.
type wire struct {
	conn    *net.TCPConn
	in, out vector
}

// vector is the state of one direction.
type vector struct {
	raw    syscall.RawConn
	call   uintptr   // SYS_READV or SYS_WRITEV
	rest   [2][]byte // what is still to be moved
	pieces [2]syscall.Iovec
	tries  int // how often to try before the goroutine is parked; 0 never parks it
	n      int // bytes moved by the last step; 0 with no error: nothing could be moved, or the end of the stream
	err    error
	step   func(fd uintptr) bool // made once: a closure for each call would be an allocation
}

// A goroutine that is parked and woken costs a small message several times what its way through the kernel costs.
// So a receiver of one looks for it spinTries times, letting other threads run in between, before it is parked.
const (
	spinBytes = 64 << 10
	spinTries = 50
)

func (w *wire) init(c *net.TCPConn, liveness time.Duration) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	w.conn = c
	w.in.init(raw, unix.SYS_READV)
	w.out.init(raw, unix.SYS_WRITEV)
	return w.tune(liveness)
}

func (v *vector) init(raw syscall.RawConn, call uintptr) {
	v.raw, v.call = raw, call
	v.step = func(fd uintptr) bool {
		for try := 1; ; {
			n, _, errno := syscall.Syscall(v.call, fd, uintptr(unsafe.Pointer(&v.pieces)), uintptr(len(v.pieces)))
			v.n, v.err = 0, nil
			switch errno {
			case 0:
				v.n = int(n)
				return true
			case syscall.EINTR:
			case syscall.EAGAIN:
				if try >= v.tries {
					return v.tries == 0
				}
				try++
				_, _, _ = syscall.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
			default:
				v.err = errno
				return true
			}
		}
	}
}

// load makes a then b, without their first skip bytes, the pieces of the next steps.
func (v *vector) load(a, b []byte, skip int) {
	v.rest = [2][]byte{a, b}
	v.advance(skip)
}

// advance drops the first n bytes of the pieces.
func (v *vector) advance(n int) {
	for i, p := range v.rest {
		k := min(n, len(p))
		n -= k
		p = p[k:]
		v.rest[i] = p
		v.pieces[i].Base = unsafe.SliceData(p)
		v.pieces[i].SetLen(len(p))
	}
}

// drop forgets the caller's memory.
func (v *vector) drop() { v.load(nil, nil, 0) }

// write writes a then b, without their first skip bytes.
func (w *wire) write(a, b []byte, skip int) error {
	v := &w.out
	v.load(a, b, skip)
	defer v.drop()
	v.tries = 1
	for left := len(a) + len(b) - skip; left > 0; {
		if err := v.raw.Write(v.step); err != nil {
			return err
		}
		if v.err != nil {
			return v.err
		}
		left -= v.n
		v.advance(v.n)
	}
	return nil
}

// tryWrite writes a then b as far as it can be done without waiting; it returns the number of bytes written.
func (w *wire) tryWrite(a, b []byte) (int, error) {
	v := &w.out
	v.load(a, b, 0)
	defer v.drop()
	v.tries = 0
	total := 0
	for total < len(a)+len(b) {
		if err := v.raw.Write(v.step); err != nil {
			return total, err
		}
		if v.err != nil || v.n == 0 {
			return total, v.err
		}
		total += v.n
		v.advance(v.n)
	}
	return total, nil
}

// read fills a, and b as far as it comes without waiting; it returns the number of bytes in b.
func (w *wire) read(a, b []byte) (int, error) {
	v := &w.in
	v.load(a, b, 0)
	defer v.drop()
	v.tries = 1
	if len(a)+len(b) <= spinBytes {
		v.tries = spinTries
	}
	total := 0
	for total < len(a) {
		if err := v.raw.Read(v.step); err != nil {
			return 0, err
		}
		if v.err != nil {
			return 0, v.err
		}
		if v.n == 0 {
			return 0, io.EOF
		}
		total += v.n
		v.advance(v.n)
	}
	return total - len(a), nil
}

// close ends both directions; pending calls return at once.
func (w *wire) close() {
	// Unread input would make the kernel reset the connection, and what was sent last might be lost: drop it.
	_ = w.in.raw.Control(func(fd uintptr) {
		const piece, most = 1 << 20, 64
		for range most {
			n, _, errno := syscall.Syscall6(unix.SYS_RECVFROM, fd, 0, piece, unix.MSG_DONTWAIT|unix.MSG_TRUNC, 0, 0)
			if errno != 0 || n == 0 {
				return
			}
		}
	})
	w.conn.Close()
}
