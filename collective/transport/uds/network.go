package uds

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"

	"github.com/farandole-ml/farandole/collective/transport/mesh"
)

// Network is unix stream sockets between processes of one user, for package mesh: addresses are as Listen has them. Errors begin with name.
// The kernel holds bufferBytes of what was sent and not received yet, for each connection and direction.
func Network(name string, bufferBytes int) mesh.Network { return network{name, bufferBytes} }

type network struct {
	name        string
	bufferBytes int
}

// maxAddr is what fits into the kernel's address structure.
const maxAddr = 107

func (n network) Name() string { return n.name }

func (network) Listen(addr string) (net.Listener, error) {
	if len(addr) > maxAddr {
		return nil, fmt.Errorf("a socket's name has at most %d bytes, not %d: %q", maxAddr, len(addr), addr)
	}
	l, err := net.Listen("unix", addr)
	if errors.Is(err, syscall.EADDRINUSE) && isPath(addr) {
		err = fmt.Errorf("%w: if no process listens there any more, remove the file %q", err, addr)
	}
	if err != nil {
		return nil, err
	}
	if isPath(addr) {
		if err := os.Chmod(addr, 0o600); err != nil {
			l.Close()
			return nil, err
		}
	}
	return l, nil
}

func isPath(addr string) bool { return addr != "" && !strings.HasPrefix(addr, "@") }

func (network) Dial(ctx context.Context, addr string) (net.Conn, error) {
	if addr == "" || len(addr) > maxAddr {
		return nil, fmt.Errorf("%q is no socket's name", addr)
	}
	var d net.Dialer
	return d.DialContext(ctx, "unix", addr)
}

// Trust wants the process at the other end to run as this one's user: anybody may claim an abstract name.
func (n network) Trust(c net.Conn) error {
	uc := c.(*net.UnixConn)
	if err := sameUser(uc); err != nil {
		return err
	}
	return uc.SetWriteBuffer(n.bufferBytes)
}
