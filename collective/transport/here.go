package transport

import "net"

// SameHost says whether a connection does not leave this host.
func SameHost(c net.Conn) bool {
	near, ok1 := c.LocalAddr().(*net.TCPAddr)
	far, ok2 := c.RemoteAddr().(*net.TCPAddr)
	return ok1 && ok2 && near.IP.Equal(far.IP)
}
