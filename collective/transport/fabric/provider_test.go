//go:build fabric && cgo && linux

package fabric

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/farandole-ml/farandole/collective/collectivetest"
)

func TestSharedMemoryOfLibfabricIsRefused(t *testing.T) {
	for _, name := range []string{"shm", "shm;ofi_mrail"} {
		_, err := Listen("127.0.0.1:0", Config{Provider: name})
		require.ErrorIs(t, err, errShared, name)
	}
	require.False(t, isShared("tcp;ofi_rxm"))
	t.Run("also where libfabric would offer it", func(t *testing.T) {
		_, err := openEndpoint("shm", "", peerOps, peerBytes)
		require.ErrorContains(t, err, "fi_getinfo")
	})
}

func TestUnknownProvidersAreNamed(t *testing.T) {
	_, err := openEndpoint("nothing", "127.0.0.1", peerOps, peerBytes)
	require.ErrorContains(t, err, `provider "nothing" at 127.0.0.1`)
}

// envDie asks a process of this test to end by the signal that it names.
const envDie = "FARANDOLE_TEST_DIE"

func dieByRequest() {
	var s syscall.Signal
	switch os.Getenv(envDie) {
	case "":
		return
	case "terminated":
		s = syscall.SIGTERM
	case "interrupt":
		s = syscall.SIGINT
	}
	ep, err := openEndpoint("tcp", "127.0.0.1", peerOps, peerBytes)
	if err != nil {
		panic(err)
	}
	defer ep.close()
	_ = syscall.Kill(os.Getpid(), s)
	time.Sleep(collectivetest.Patience)
}

// TestSignalsEndAProgramAndLeaveNothing checks what the libraries behind libfabric would change.
func TestSignalsEndAProgramAndLeaveNothing(t *testing.T) {
	before, err := filepath.Glob("/dev/shm/*")
	require.NoError(t, err)
	for _, s := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		t.Run(s.String(), func(t *testing.T) {
			self, err := os.Executable()
			require.NoError(t, err)
			cmd := exec.Command(self, "-test.run=^$")
			cmd.Dir, cmd.Env = t.TempDir(), append(os.Environ(), envDie+"="+s.String())
			out, err := cmd.CombinedOutput()
			var exit *exec.ExitError
			require.ErrorAs(t, err, &exit)
			require.Equal(t, s, exit.Sys().(syscall.WaitStatus).Signal(), "%v: %s", err, out)
			litter, err := os.ReadDir(cmd.Dir)
			require.NoError(t, err)
			require.Empty(t, litter)
			after, err := filepath.Glob("/dev/shm/*")
			require.NoError(t, err)
			require.Subset(t, before, after)
		})
	}
}
