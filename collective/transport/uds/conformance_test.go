package uds

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/farandole-ml/farandole/collective"
	"github.com/farandole-ml/farandole/collective/collectivetest"
)

func TestMain(m *testing.M) {
	collectivetest.AbortRank(func(int) (collectivetest.Listener, error) { return Listen("", Config{}) })
	goleak.VerifyTestMain(m)
}

// TestAborts strikes groups of processes; BenchmarkAborts does it often, and says how long the others took to notice.
func TestAborts(t *testing.T) { collectivetest.Aborts(t, 24) }

func BenchmarkAborts(b *testing.B) { collectivetest.AbortTimes(b) }

func TestConformance(t *testing.T) {
	collectivetest.Run(t, func(t testing.TB, world int) []collective.Transport {
		return form(t, world, Config{Checksum: world%2 == 0})
	})
}

// form makes a group of ranks with one setting.
func form(t testing.TB, world int, cfg Config) []collective.Transport {
	return collectivetest.Form(t, world, func(int) (*Listener, error) { return Listen("", cfg) })
}
