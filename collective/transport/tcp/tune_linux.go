package tcp

import (
	"net"
	"time"

	"github.com/farandole-ml/farandole/collective/transport"
)

// tune sets a connection up; here says that it does not leave the host.
func tune(c *net.TCPConn, liveness time.Duration, here bool) error {
	if err := c.SetNoDelay(true); err != nil {
		return err
	}
	if here {
		if err := transport.TuneHere(c); err != nil {
			return err
		}
	}
	const probes = 2
	return c.SetKeepAliveConfig(net.KeepAliveConfig{
		Enable:   liveness > 0,
		Idle:     max(liveness, time.Second), // the kernel counts in seconds
		Interval: max(liveness, time.Second),
		Count:    probes,
	})
}
