//go:build linux

package shm

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/farandole-ml/farandole/collective/collectivetest"
)

func TestMain(m *testing.M) {
	collectivetest.AbortRank(func(int) (collectivetest.Listener, error) { return Listen("", Config{}) })
	goleak.VerifyTestMain(m)
}

// TestAborts strikes groups of processes; BenchmarkAborts does it often, and says how long the others took to notice.
func TestAborts(t *testing.T) { collectivetest.Aborts(t, 24) }

func BenchmarkAborts(b *testing.B) { collectivetest.AbortTimes(b) }
