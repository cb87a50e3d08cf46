package mesh

import (
	"fmt"
	"io"
	"math/bits"
	"net"
	"slices"
	"time"

	"github.com/farandole-ml/farandole/elastic"
)

// handle does the acceptor's side of one connection's handshake.
func (l *Listener) handle(c net.Conn) {
	if !l.enroll(c) {
		c.Close()
		return
	}
	_ = c.SetDeadline(time.Now().Add(l.cfg.HandshakeTimeout))
	err := l.network.Trust(c)
	var h hello
	if err == nil {
		h, err = readHello(c)
	}
	if !l.expel(c) || err != nil {
		l.cfg.Logger.Debug("data connection refused", "peer", c.RemoteAddr(), "err", err)
		c.Close()
		return
	}
	park := time.NewTimer(l.cfg.ParkTimeout)
	defer park.Stop()
	parked := false
	for {
		f, answer, changed := l.judge(h, &parked)
		if f != nil {
			l.seat(f, h, answer.streams, c)
			return
		}
		if answer.verdict != again || changed == nil {
			l.refuse(c, h, answer)
			return
		}
		select {
		case <-changed:
		case <-park.C:
			l.leavePark(&parked)
			l.refuse(c, h, answer)
			return
		}
	}
}

// enroll counts c as pending and displaces the oldest when there are too many.
func (l *Listener) enroll(c net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false
	}
	if len(l.pending) >= l.cfg.MaxPending {
		l.pending[0].Close()
		l.pending = slices.Delete(l.pending, 0, 1)
	}
	l.pending = append(l.pending, c)
	return true
}

// expel ends c's time as pending; false means that it was displaced.
func (l *Listener) expel(c net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := slices.Index(l.pending, c)
	if i < 0 {
		return false
	}
	l.pending = slices.Delete(l.pending, i, i+1)
	return true
}

func (l *Listener) leavePark(parked *bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if *parked {
		*parked = false
		l.parked--
	}
}

// judge decides on a hello: a group in formation that it belongs to, an answer, or, with changed not nil, to wait
// for a change.
func (l *Listener) judge(h hello, parked *bool) (_ *forming, answer reply, changed <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if *parked {
		*parked = false
		l.parked--
	}
	no := func(format string, args ...any) (*forming, reply, <-chan struct{}) {
		return nil, reply{verdict: refused, generation: l.fence, text: fmt.Sprintf(format, args...)}, nil
	}
	switch f := l.forming[h.generation]; {
	case l.closed:
		return nil, reply{verdict: again, generation: l.fence, text: "shutting down"}, nil
	case h.version != version:
		return no("protocol version %d here, %d there: run one release on all hosts", version, h.version)
	case l.job != "" && h.job != l.job:
		return no("this is job '%s', not '%s'", l.job, h.job)
	case h.flags != l.cfg.Flags:
		return no("%s: use one setting in the job", l.cfg.difference(h.flags))
	case h.generation < l.fence:
		return nil, reply{verdict: stale, generation: l.fence}, nil
	case f != nil:
		return f.claim(h, l.fence, l.cfg.Streams)
	case h.generation == l.formed:
		return no("generation %d stands already, without this connection", h.generation)
	case l.parked >= l.cfg.MaxParked:
		return nil, reply{verdict: again, generation: l.fence, text: "too many early connections"}, nil
	}
	*parked = true
	l.parked++
	return nil, reply{verdict: again, generation: l.fence, text: fmt.Sprintf("generation %d is not known here yet", h.generation)}, l.changed
}

// difference names the first flag in which theirs are not ours.
func (c *Config) difference(theirs uint32) string {
	i := bits.TrailingZeros32(c.Flags ^ theirs)
	name := fmt.Sprintf("setting %d", i)
	if i < len(c.FlagNames) {
		name = c.FlagNames[i]
	}
	state := func(flags uint32) string {
		if flags>>i&1 != 0 {
			return "on"
		}
		return "off"
	}
	return fmt.Sprintf("%s: %s here, %s there", name, state(c.Flags), state(theirs))
}

// claim reserves the place of h in f, for the connection that h is for. The Listener's mu is held.
func (f *forming) claim(h hello, fence elastic.Generation, streams int) (*forming, reply, <-chan struct{}) {
	no := func(format string, args ...any) (*forming, reply, <-chan struct{}) {
		return nil, reply{verdict: refused, generation: fence, text: fmt.Sprintf(format, args...)}, nil
	}
	switch {
	case h.world != f.world:
		return no("generation %d has a world of %d here, %d there", h.generation, f.world, h.world)
	case h.to != f.id.Rank:
		return no("this is rank %d of generation %d, not %d", f.id.Rank, h.generation, h.to)
	case h.from <= f.id.Rank:
		return no("rank %d of generation %d must wait for rank %d to dial it", h.from, h.generation, f.id.Rank)
	}
	s := &f.seats[h.from]
	if h.stream == 0 && len(s.conns) == 0 {
		s.streams = min(streams, h.streams)
	}
	switch {
	case s.claimed:
		return nil, reply{verdict: again, generation: fence, text: "another connection of this rank is in handshake"}, nil
	case h.stream < len(s.conns):
		return no("rank %d of generation %d is connected already: two processes claim it", h.from, h.generation)
	case h.stream > len(s.conns) || h.stream >= s.streams:
		return no("rank %d of generation %d opens connection %d; it has %d of %d", h.from, h.generation, h.stream, len(s.conns), s.streams)
	}
	s.claimed = true
	return f, reply{streams: s.streams}, nil
}

// seat finishes the handshake of a connection whose place is claimed.
func (l *Listener) seat(f *forming, h hello, streams int, c net.Conn) {
	_ = c.SetDeadline(time.Now().Add(l.cfg.HandshakeTimeout))
	err := func() error {
		if _, err := c.Write(reply{verdict: welcome, streams: streams, generation: h.generation}.append(nil)); err != nil {
			return err
		}
		var b [len(confirm)]byte
		if _, err := io.ReadFull(c, b[:]); err != nil {
			return err
		}
		if string(b[:]) != confirm {
			return errGarbage
		}
		return c.SetDeadline(time.Time{})
	}()
	l.mu.Lock()
	defer l.mu.Unlock()
	s := &f.seats[h.from]
	s.claimed = false
	if err != nil || f.over {
		l.cfg.Logger.Debug("data connection lost in handshake", "peer", c.RemoteAddr(), "rank", h.from, "gen", h.generation, "err", err)
		c.Close()
		return
	}
	s.conns = append(s.conns, c)
	if len(s.conns) == s.streams {
		f.arrived <- h.from // has room for all
	}
}

func (l *Listener) refuse(c net.Conn, h hello, answer reply) {
	l.cfg.Logger.Debug("data connection refused", "peer", c.RemoteAddr(), "rank", h.from, "gen", h.generation, "reason", answer.text)
	_ = c.SetDeadline(time.Now().Add(l.cfg.HandshakeTimeout))
	_, _ = c.Write(answer.append(nil)) // a dialer that does not read it sees the connection end
	c.Close()
}
