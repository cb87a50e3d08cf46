package stream

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Duplex implements collective.Duplex.
func (t *stream) Duplex() bool { return !t.spare }

// Meanwhile implements collective.Duplex.
func (t *stream) Meanwhile(push func()) { t.push = push }

// Room implements collective.Duplex.
func (t *stream) Room() error {
	t.waiting.wait(t, nil)
	return t.ending.Cause()
}

// waiting is a wait for several connections at once.
type waiting struct {
	fds   []unix.PollFd
	wires []*wire
}

// wait returns when in has input (if it is not nil) or one of the frames that TrySend began can go on. It does not
// wait, and returns false, when there is no such frame.
func (q *waiting) wait(t *stream, in *wire) bool {
	q.fds, q.wires = q.fds[:0], q.wires[:0]
	for _, p := range t.peers {
		if p == nil || !p.begun {
			continue
		}
		w := p.wireOf(p.sent)
		if !w.enter() {
			q.leave()
			return true // aborted: whatever comes next says so
		}
		q.wires = append(q.wires, w)
		q.fds = append(q.fds, unix.PollFd{Fd: int32(w.fd), Events: unix.POLLOUT})
	}
	if len(q.wires) == 0 {
		return false
	}
	defer q.leave()
	if in != nil {
		q.fds = append(q.fds, unix.PollFd{Fd: int32(in.fd), Events: unix.POLLIN})
	}
	for {
		_, _, errno := syscall.Syscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(&q.fds[0])), uintptr(len(q.fds)), 0, 0, 0, 0)
		if errno != unix.EINTR {
			return true
		}
	}
}

func (q *waiting) leave() {
	for _, w := range q.wires {
		w.leave()
	}
}
