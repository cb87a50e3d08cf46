package uds

import (
	"fmt"
	"net"
	"os"

	"github.com/farandole-ml/farandole/collective/transport/mesh"
	"golang.org/x/sys/unix"
)

// sameUser asks the kernel who connected, or who listens.
func sameUser(c *net.UnixConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var peer *unix.Ucred
	if cerr := raw.Control(func(fd uintptr) { peer, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); cerr != nil {
		return cerr
	}
	if err != nil {
		return fmt.Errorf("ask for the peer's user: %w", err)
	}
	return admit(peer, os.Geteuid())
}

func admit(peer *unix.Ucred, uid int) error {
	if int(peer.Uid) != uid {
		return fmt.Errorf("%w: process %d there runs as user %d, this one as user %d: run all ranks as one user", mesh.ErrUntrusted, peer.Pid, peer.Uid, uid)
	}
	return nil
}
