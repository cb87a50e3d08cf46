package transport

import (
	"net"

	"golang.org/x/sys/unix"
)

// hereBuffer is how much the kernel may hold of what was sent to a rank on the same host and has not been received. That is
// enough for a chunk or two, so that a sender seldom waits, and little enough to stay in the processor's cache. Across hosts
// the kernel finds the size by itself.
const hereBuffer = 1 << 20

// TuneHere sets up a connection that does not leave the host.
func TuneHere(c *net.TCPConn) error {
	if err := c.SetWriteBuffer(hereBuffer); err != nil {
		return err
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	return raw.Control(func(fd uintptr) {
		// Nothing is lost on the loopback interface, and pacing, which some of the other algorithms do, only makes both
		// sides wait. Every kernel has reno; should this one not let us choose it, then its default works too.
		_ = unix.SetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION, "reno")
	})
}
