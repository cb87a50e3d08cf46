package tcp

import (
	"fmt"
	"net"
	"syscall"
	"time"

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
	last := time.Now()
	for {
		select {
		case <-t.over:
			return
		case now := <-ticker.C:
			// A process that was itself stopped accuses nobody: it looks again a period later.
			if late := now.Sub(last) > 2*period; !late {
				t.check(liveness)
			}
			last = now
			t.checks.Add(1)
		}
	}
}

func (t *transport) check(liveness time.Duration) {
	for _, p := range t.peers {
		if p == nil {
			continue
		}
		var info *unix.TCPInfo
		err := p.wire.in.raw.Control(func(fd uintptr) {
			info, _ = unix.GetsockoptTCPInfo(int(fd), syscall.IPPROTO_TCP, unix.TCP_INFO)
		})
		if err != nil || info == nil {
			continue // closed: somebody else noticed
		}
		if reason := silence(info, liveness); reason != "" {
			t.fail(p, fmt.Errorf("%w: %s", errLost, reason))
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
