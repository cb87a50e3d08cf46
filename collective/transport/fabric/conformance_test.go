//go:build fabric && cgo && linux

package fabric

import (
	"os"
	"testing"

	"go.uber.org/goleak"

	"github.com/farandole-ml/farandole/collective"
	"github.com/farandole-ml/farandole/collective/collectivetest"
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

// form makes a group of ranks with one setting.
func form(t testing.TB, world int, cfg Config) []collective.Transport {
	return collectivetest.Form(t, world, func(int) (*Listener, error) { return Listen("127.0.0.1:0", cfg) })
}
