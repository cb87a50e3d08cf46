//go:build !linux

package tcp

import (
	"io"
	"net"
	"time"
)

// wire moves bytes over a connection.
type wire struct {
	conn   *net.TCPConn
	pieces [2][]byte
	bufs   net.Buffers
}

// init ignores liveness: finding a cut link is left to the control plane on this system.
func (w *wire) init(c *net.TCPConn, _ time.Duration) error {
	w.conn = c
	return c.SetNoDelay(true)
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
func (w *wire) tryWrite(_, _ []byte) (int, error) { return 0, nil }

// read fills a, and b as far as it comes without waiting; it returns the number of bytes in b.
func (w *wire) read(a, _ []byte) (int, error) {
	_, err := io.ReadFull(w.conn, a)
	return 0, err
}

// close ends both directions; pending calls return at once.
func (w *wire) close() { w.conn.Close() }

// watch returns at once: see init.
func (t *transport) watch(time.Duration) {}
