//go:build !linux

package tcp

import (
	"net"
	"time"
)

func tune(c *net.TCPConn, _ time.Duration, _ bool) error { return c.SetNoDelay(true) }
