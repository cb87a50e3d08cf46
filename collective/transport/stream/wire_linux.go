package stream

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// wire moves bytes over a connection straight between the kernel and the callers' memory, several pieces in one
// system call, without allocating.
//
// It owns its file descriptor, which the runtime's network poller does not know: a thread that waits for a peer
// waits in the kernel for that very connection. With the poller every message would wake the thread that sits in
// epoll_wait first, also when somebody reads the message without having waited.
type wire struct {
	fd      int
	tcp     bool
	users   atomic.Int64 // who is using fd, plus closing; the last one out closes it
	in, out vector
}

// In wire.users: nobody may come in any more, and the last one is out.
const (
	closing = 1 << 62
	closed  = closing | 1<<61
)

// vector is the state of one direction.
type vector struct {
	rest   [2][]byte // what is still to be moved
	pieces [2]unix.Iovec
	msg    unix.Msghdr
}

// smallBytes is the largest message that is worth polling for: a larger one takes longer on its way than a sleeping
// thread takes to wake up.
const smallBytes = 64 << 10

// How a receiver of a small message waits before it sleeps: it looks up to maxPolls times and lets other threads run in
// between. When one of these really ran, for longer than politeness, then this core has something better to do.
const (
	maxPolls   = 200
	politeness = 20 * time.Microsecond
)

var errEnded = fmt.Errorf("%w here", net.ErrClosed)

// init takes the descriptor out of c and closes c.
func (w *wire) init(c net.Conn) error {
	w.fd = -1
	defer c.Close()
	sc, ok := c.(syscall.Conn)
	if !ok {
		return fmt.Errorf("a connection of type %T has no descriptor", c)
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return err
	}
	dup := -1
	if cerr := raw.Control(func(fd uintptr) { dup, err = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0) }); cerr != nil {
		return cerr
	}
	if err != nil {
		return fmt.Errorf("duplicate a descriptor: %w", err)
	}
	if err := c.Close(); err != nil { // before the next line, which changes c's descriptor as well
		unix.Close(dup)
		return err
	}
	if err := unix.SetNonblock(dup, false); err != nil {
		unix.Close(dup)
		return err
	}
	_, w.tcp = c.(*net.TCPConn)
	w.fd = dup
	return nil
}

// enter begins a use of the descriptor; false means that the wire is closed.
func (w *wire) enter() bool {
	if w.users.Add(1)&closing == 0 {
		return true
	}
	w.leave()
	return false
}

func (w *wire) leave() {
	if w.users.Add(-1) == closing {
		// Somebody may be on his way in and out again: only one closes.
		if w.users.CompareAndSwap(closing, closed) {
			unix.Close(w.fd)
		}
	}
}

// load makes a then b, without their first skip bytes, the pieces of the next steps.
func (v *vector) load(a, b []byte, skip int) {
	v.rest = [2][]byte{a, b}
	v.msg.Iov = &v.pieces[0]
	v.msg.SetIovlen(len(v.pieces))
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

// try makes one system call that does not wait; 0 bytes with errno EAGAIN means that it would have to.
func (w *wire) try(call uintptr, v *vector) (int, syscall.Errno) {
	if len(v.rest[1]) > smallBytes { // long enough for the runtime to know of it
		n, _, errno := syscall.Syscall(call, uintptr(w.fd), uintptr(unsafe.Pointer(&v.msg)), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		return int(n), errno
	}
	n, _, errno := syscall.RawSyscall(call, uintptr(w.fd), uintptr(unsafe.Pointer(&v.msg)), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
	return int(n), errno
}

// wait makes one system call that waits until it can move something: everything, with MSG_WAITALL.
func (w *wire) wait(call uintptr, v *vector, flags int) (int, syscall.Errno) {
	n, _, errno := syscall.Syscall(call, uintptr(w.fd), uintptr(unsafe.Pointer(&v.msg)), uintptr(flags|unix.MSG_NOSIGNAL))
	return int(n), errno
}

// write writes a then b, without their first skip bytes.
func (w *wire) write(a, b []byte, skip int) error {
	if !w.enter() {
		return errEnded
	}
	defer w.leave()
	v := &w.out
	v.load(a, b, skip)
	defer v.drop()
	for left := len(a) + len(b) - skip; left > 0; {
		n, errno := w.wait(unix.SYS_SENDMSG, v, 0)
		switch errno {
		case 0:
			left -= n
			v.advance(n)
		case unix.EINTR:
		default:
			return errno
		}
	}
	return nil
}

// tryWrite writes a then b, without their first skip bytes, as far as it can be done without waiting; it returns the
// number of bytes written.
func (w *wire) tryWrite(a, b []byte, skip int) (int, error) {
	if !w.enter() {
		return 0, errEnded
	}
	defer w.leave()
	v := &w.out
	v.load(a, b, skip)
	defer v.drop()
	total := 0
	for total < len(a)+len(b)-skip {
		n, errno := w.try(unix.SYS_SENDMSG, v)
		switch errno {
		case 0:
			total += n
			v.advance(n)
		case unix.EINTR:
		case unix.EAGAIN:
			return total, nil
		default:
			return total, errno
		}
	}
	return total, nil
}

// read fills a, and b as far as it comes without waiting; it returns the number of bytes in b. Where it would wait, t may
// send instead.
func (w *wire) read(a, b []byte, t *stream) (int, error) {
	if !w.enter() {
		return 0, errEnded
	}
	defer w.leave()
	v := &w.in
	v.load(a, b, 0)
	defer v.drop()
	polls, flags := 0, 0
	if len(a)+len(b) <= smallBytes {
		polls = maxPolls
	}
	if len(b) == 0 {
		flags = unix.MSG_WAITALL
	}
	total := 0
	for total < len(a) {
		n, errno := w.look(v, polls, t)
		if errno == unix.EAGAIN {
			n, errno = w.wait(unix.SYS_RECVMSG, v, flags)
		}
		switch {
		case errno == unix.EINTR:
		case errno != 0:
			return 0, errno
		case n == 0:
			return 0, io.EOF
		default:
			total += n
			v.advance(n)
		}
	}
	return total - len(a), nil
}

// look receives if it can be done without waiting, or while t sends.
func (w *wire) look(v *vector, polls int, t *stream) (int, syscall.Errno) {
	for t.push != nil {
		n, errno := w.try(unix.SYS_RECVMSG, v)
		if errno != unix.EAGAIN {
			return n, errno
		}
		t.push()
		if t.from.broken {
			if !w.input(time.Now().Add(lastWordsWait)) {
				return 0, unix.EPIPE
			}
			continue
		}
		if !t.waiting.wait(t, w) {
			break
		}
	}
	return w.poll(v, polls)
}

// poll looks for input a number of times.
func (w *wire) poll(v *vector, times int) (int, syscall.Errno) {
	if times == 0 {
		return 0, unix.EAGAIN
	}
	var last time.Time
	for try := 1; ; try++ {
		n, errno := w.try(unix.SYS_RECVMSG, v)
		if errno != unix.EAGAIN || try >= times {
			return n, errno
		}
		if try == 1 {
			last = time.Now()
		}
		_, _, _ = syscall.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
		now := time.Now()
		if now.Sub(last) > politeness {
			return 0, unix.EAGAIN
		}
		last = now
	}
}

// readBy fills b until deadline; false means that it could not.
func (w *wire) readBy(b []byte, deadline time.Time) bool {
	if !w.enter() {
		return false
	}
	defer w.leave()
	v := &w.in
	v.load(b, nil, 0)
	defer v.drop()
	for left := len(b); left > 0; {
		n, errno := w.try(unix.SYS_RECVMSG, v)
		switch {
		case errno == unix.EINTR:
		case errno == unix.EAGAIN:
			if !w.input(deadline) {
				return false
			}
		case errno != 0 || n == 0:
			return false
		default:
			left -= n
			v.advance(n)
		}
	}
	return true
}

// input waits for input, or the end of it, until deadline.
func (w *wire) input(deadline time.Time) bool {
	fds := []unix.PollFd{{Fd: int32(w.fd), Events: unix.POLLIN}}
	for {
		wait := max(time.Until(deadline), 0)
		n, err := unix.Poll(fds, int((wait+time.Millisecond-1)/time.Millisecond))
		if !errors.Is(err, unix.EINTR) {
			return n > 0
		}
	}
}

// control calls f with the descriptor, unless the wire is closed.
func (w *wire) control(f func(fd int)) {
	if w.enter() {
		f(w.fd)
		w.leave()
	}
}

// close ends both directions; pending calls return at once. It must be called once.
func (w *wire) close() {
	w.users.Add(closing + 1)
	if w.tcp {
		w.drain()
	}
	_ = unix.Shutdown(w.fd, unix.SHUT_RDWR)
	w.leave()
}

// drain drops unread input, which would make the kernel reset the connection, and what was sent last might be lost.
func (w *wire) drain() {
	const piece, most = 1 << 20, 64
	for range most {
		n, _, errno := syscall.Syscall6(unix.SYS_RECVFROM, uintptr(w.fd), 0, piece, unix.MSG_DONTWAIT|unix.MSG_TRUNC, 0, 0)
		if errno != 0 || n == 0 {
			return
		}
	}
}
