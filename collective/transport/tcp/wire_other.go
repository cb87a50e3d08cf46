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

// write writes a then b.
func (w *wire) write(a, b []byte) error {
	w.pieces = [2][]byte{a, b}
	w.bufs = w.pieces[:]
	_, err := w.bufs.WriteTo(w.conn)
	w.pieces = [2][]byte{}
	return err
}

// read fills a, and b as far as it comes without waiting; it returns the number of bytes in b.
func (w *wire) read(a, _ []byte) (int, error) {
	_, err := io.ReadFull(w.conn, a)
	return 0, err
}

// tryWrite writes what fits without waiting long.
func (w *wire) tryWrite(b []byte) {
	w.conn.SetWriteDeadline(time.Now().Add(10 * time.Millisecond))
	w.conn.Write(b)
}

// close ends both directions; pending calls return at once.
func (w *wire) close() { w.conn.Close() }
