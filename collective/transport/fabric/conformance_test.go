//go:build fabric && cgo && linux

package fabric

import (
	"context"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/farandole-ml/farandole/collective"
	"github.com/farandole-ml/farandole/collective/collectivetest"
	"github.com/farandole-ml/farandole/collective/transport"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// providers are those that run on any host.
var providers = map[string]Config{
	"tcp":        {Provider: "tcp"},
	"tcp staged": {Provider: "tcp", Stage: true},
	"shm":        {Provider: "shm"},
}

// envShm asks for the shm provider's suite too, which hangs on libfabric 1.17: see docs/fabric.md.
const envShm = "FARANDOLE_FABRIC_SHM"

func TestConformance(t *testing.T) {
	for name, cfg := range providers {
		t.Run(name, func(t *testing.T) {
			if cfg.Provider == "shm" && os.Getenv(envShm) == "" {
				t.Skipf("set %s to run it", envShm)
			}
			collectivetest.Run(t, func(t testing.TB, world int) []collective.Transport {
				cfg.Checksum = world%2 == 0
				return form(t, world, cfg)
			})
		})
	}
}

// listenAll starts a listener for each rank and gives their addresses.
func listenAll(t testing.TB, world int, cfg Config) ([]*Listener, []string) {
	listeners := make([]*Listener, world)
	addrs := make([]string, world)
	for r := range listeners {
		l, err := Listen("127.0.0.1:0", cfg)
		require.NoError(t, err)
		t.Cleanup(func() { l.Close() })
		listeners[r], addrs[r] = l, l.Addr()
	}
	return listeners, addrs
}

// patience is a limit that only a hanging test reaches.
const patience = time.Minute

func form(t testing.TB, world int, cfg Config) []collective.Transport {
	listeners, addrs := listenAll(t, world, cfg)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	transports := make([]collective.Transport, world)
	errs := make([]error, world)
	var wg sync.WaitGroup
	for r, l := range listeners {
		wg.Go(func() {
			transports[r], errs[r] = l.Connect(ctx, transport.ID{Job: "test", Generation: 1, Rank: r}, addrs)
		})
	}
	wg.Wait()
	for _, l := range listeners {
		require.NoError(t, l.Close()) // a group that stands needs no listener
	}
	for r, err := range errs {
		require.NoError(t, err, "rank %d", r)
	}
	return transports
}
