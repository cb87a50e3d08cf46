package uds

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/farandole-ml/farandole/collective/transport/mesh"
)

func TestAnotherUserIsRefused(t *testing.T) {
	me := os.Geteuid()
	require.NoError(t, admit(&unix.Ucred{Pid: 7, Uid: uint32(me)}, me))
	for _, uid := range []uint32{uint32(me) + 1, ^uint32(0)} {
		err := admit(&unix.Ucred{Pid: 7, Uid: uid}, me)
		require.ErrorIs(t, err, mesh.ErrUntrusted)
		require.ErrorContains(t, err, "run all ranks as one user")
	}
}
