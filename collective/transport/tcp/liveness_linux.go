package tcp

import (
	"fmt"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Cut links are found by asking the kernel how the peer's host answers, not by TCP_USER_TIMEOUT: that option also ends
// a connection whose peer only has a full receive window for that long, that is, a peer that computes while
// this rank has sent ahead. The kernel's keepalive covers a connection on which nothing is under way.

// newLook makes a stream.Config.Look. It asks into the same memory again and again.
func newLook(liveness time.Duration) func(fd int) string {
	info := new(unix.TCPInfo)
	return func(fd int) string {
		size := uint32(unsafe.Sizeof(*info))
		_, _, errno := syscall.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.IPPROTO_TCP, unix.TCP_INFO,
			uintptr(unsafe.Pointer(info)), uintptr(unsafe.Pointer(&size)), 0)
		if errno != 0 {
			return ""
		}
		return silence(info, liveness)
	}
}

// How many transmissions must have gone unanswered, so that the loss of one is not taken for a cut. A probe of a full
// window may go unanswered because the peer limits its answers, which says nothing.
const (
	minRetransmits = 2
	minProbes      = 3
)

// silence says why a peer's host must be taken for lost, if it must.
func silence(info *unix.TCPInfo, liveness time.Duration) string {
	quiet := time.Duration(info.Last_ack_recv) * time.Millisecond
	switch {
	case quiet <= liveness:
	case info.Unacked > 0 && info.Retransmits >= minRetransmits:
		return fmt.Sprintf("its host has not acknowledged data for %v", quiet)
	case info.Unacked == 0 && info.Probes >= minProbes:
		return fmt.Sprintf("its host has not answered probes for %v", quiet)
	}
	return ""
}
