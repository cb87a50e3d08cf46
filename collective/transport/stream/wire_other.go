//go:build !linux

package stream

import (
	"io"
	"net"
	"time"
)

// wire moves bytes over a connection.
type wire struct {
	conn   net.Conn
	pieces [2][]byte
	bufs   net.Buffers
}

func (w *wire) init(c net.Conn) error {
	w.conn = c
	return nil
}

// write writes a then b, without their first skip bytes.
func (w *wire) write(a, b []byte, skip int) error {
	k := min(skip, len(a))
	w.pieces = [2][]byte{a[k:], b[skip-k:]}
	w.bufs = w.pieces[:]
	_, err := w.bufs.WriteTo(w.conn)
	w.pieces = [2][]byte{}
	return err
}

// tryWrite writes what can be written without waiting: here, nothing.
func (w *wire) tryWrite(_, _ []byte, _ int) (int, error) { return 0, nil }

// read fills a, and b as far as it comes without waiting; it returns the number of bytes in b.
func (w *wire) read(a, _ []byte, _ *stream) (int, error) {
	_, err := io.ReadFull(w.conn, a)
	return 0, err
}

// readBy fills b until deadline; false means that it could not.
func (w *wire) readBy(b []byte, deadline time.Time) bool {
	_ = w.conn.SetReadDeadline(deadline)
	_, err := io.ReadFull(w.conn, b)
	return err == nil
}

// control does nothing: finding a cut link is left to the control plane on this system.
func (w *wire) control(func(fd int)) {}

// close ends both directions; pending calls return at once.
func (w *wire) close() { w.conn.Close() }

// waiting is not needed: see collective.Duplex.
type waiting struct{}
