package inproc_test

import (
	"testing"

	"github.com/farandole-ml/farandole/collective"
	"github.com/farandole-ml/farandole/collective/collectivetest"
	"github.com/farandole-ml/farandole/collective/transport/inproc"
)

func TestConformance(t *testing.T) {
	collectivetest.Run(t, func(_ testing.TB, world int) []collective.Transport { return inproc.New(world) })
}
