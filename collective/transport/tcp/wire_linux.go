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
	n      int // bytes moved by the last step
	err    error
	step   func(fd uintptr) bool // made once: a closure for each call would be an allocation
}

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
		for {
			n, _, errno := syscall.Syscall(v.call, fd, uintptr(unsafe.Pointer(&v.pieces)), uintptr(len(v.pieces)))
			switch errno {
			case 0:
				v.n, v.err = int(n), nil
				return true
			case syscall.EINTR:
			case syscall.EAGAIN:
				return false
			default:
				v.n, v.err = 0, errno
				return true
			}
		}
	}
}

// load makes a then b the pieces of the next steps.
func (v *vector) load(a, b []byte) {
	v.rest = [2][]byte{a, b}
	v.point()
}

// advance drops the first n bytes of the pieces.
func (v *vector) advance(n int) {
	for i, p := range v.rest {
		k := min(n, len(p))
		v.rest[i] = p[k:]
		n -= k
	}
	v.point()
}

// point makes the system call's pieces those of rest.
func (v *vector) point() {
	for i, p := range v.rest {
		v.pieces[i].Base = unsafe.SliceData(p)
		v.pieces[i].SetLen(len(p))
	}
}

// drop forgets the caller's memory.
func (v *vector) drop() { v.load(nil, nil) }

// write writes a then b.
func (w *wire) write(a, b []byte) error {
	v := &w.out
	v.load(a, b)
	defer v.drop()
	for left := len(a) + len(b); left > 0; {
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

// read fills a, and b as far as it comes without waiting; it returns the number of bytes in b.
func (w *wire) read(a, b []byte) (int, error) {
	v := &w.in
	v.load(a, b)
	defer v.drop()
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

// tryWrite writes what fits without waiting.
func (w *wire) tryWrite(b []byte) {
	w.in.raw.Control(func(fd uintptr) {
		unix.SendmsgN(int(fd), b, nil, nil, unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
	})
}

// close ends both directions; pending calls return at once.
func (w *wire) close() {
	// Unread input would make the kernel reset the connection, and what was sent last might be lost: drop it.
	w.in.raw.Control(func(fd uintptr) {
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

func (w *wire) tune(time.Duration) error { return w.conn.SetNoDelay(true) }
