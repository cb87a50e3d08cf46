package tcp

import (
	"fmt"
	"net"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Cut links are found by asking the kernel how the peer's host answers, not by TCP_USER_TIMEOUT: that option also ends
// a connection whose peer only has a full receive window for that long, that is, a peer that computes while
// this rank has sent ahead. The kernel's keepalive covers a connection on which nothing is under way.

// tune sets a connection up.
func (w *wire) tune(liveness time.Duration) error {
	if err := w.conn.SetNoDelay(true); err != nil {
		return err
	}
	const probes = 2
	return w.conn.SetKeepAliveConfig(net.KeepAliveConfig{
		Enable:   liveness > 0,
		Idle:     max(liveness, time.Second), // the kernel counts in seconds
		Interval: max(liveness, time.Second),
		Count:    probes,
	})
}

// checksPerLiveness is how often in a Liveness connections are looked at.
const checksPerLiveness = 4

// watch ends the group when a peer's host has not answered for liveness, until the group is over.
func (t *transport) watch(liveness time.Duration) {
	period := liveness / checksPerLiveness
	ticker := time.NewTicker(max(period, time.Millisecond))
	defer ticker.Stop()
	last, q := time.Now(), newInquiry()
	for {
		select {
		case <-t.over:
			return
		case now := <-ticker.C:
			// A process that was itself stopped accuses nobody: it looks again a period later.
			if late := now.Sub(last) > 2*period; !late {
				t.check(q, liveness)
			}
			last = now
			t.checks.Add(1)
		}
	}
}

// inquiry asks the kernel about a connection, into the same memory again and again.
type inquiry struct {
	info unix.TCPInfo
	ok   bool
	ask  func(fd uintptr)
}

func newInquiry() *inquiry {
	q := &inquiry{}
	q.ask = func(fd uintptr) {
		size := uint32(unsafe.Sizeof(q.info))
		_, _, errno := syscall.Syscall6(unix.SYS_GETSOCKOPT, fd, unix.IPPROTO_TCP, unix.TCP_INFO,
			uintptr(unsafe.Pointer(&q.info)), uintptr(unsafe.Pointer(&size)), 0)
		q.ok = errno == 0
	}
	return q
}

func (t *transport) check(q *inquiry, liveness time.Duration) {
	for _, p := range t.peers {
		if p == nil {
			continue
		}
		if err := p.wire.in.raw.Control(q.ask); err != nil || !q.ok {
			continue // closed: somebody else noticed
		}
		if reason := silence(&q.info, liveness); reason != "" {
			_ = t.fail(p, fmt.Errorf("%w: %s", errLost, reason))
			return
		}
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
